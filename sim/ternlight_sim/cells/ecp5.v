// Behaviour of the ECP5 cells that the gateware instantiates, as far as it uses them, for simulation.
// Not inlined: hundreds of copies would take Verilator and the compiler minutes.

// Block RAM, of which port A reads and writes, and port B reads; one clock, no resets.
module DP16KD #(
    parameter DATA_WIDTH_A = 18,
    parameter DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG",
    parameter REGMODE_B = "NOREG",
    parameter WRITEMODE_A = "NORMAL",
    parameter WRITEMODE_B = "NORMAL",
    parameter CSDECODE_A = "0b000",
    parameter CSDECODE_B = "0b000",
    parameter CLKAMUX = "CLKA",
    parameter CLKBMUX = "CLKB",
    parameter RESETMODE = "SYNC",
    parameter ASYNC_RESET_RELEASE = "SYNC",
    parameter GSR = "AUTO"
) (
    input CLKA, CEA, OCEA, WEA, RSTA, CSA0, CSA1, CSA2,
    input CLKB, CEB, OCEB, WEB, RSTB, CSB0, CSB1, CSB2,
    input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13,
    input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13,
    input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8,
    input DIA9, DIA10, DIA11, DIA12, DIA13, DIA14, DIA15, DIA16, DIA17,
    input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8,
    input DIB9, DIB10, DIB11, DIB12, DIB13, DIB14, DIB15, DIB16, DIB17,
    output DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8,
    output DOA9, DOA10, DOA11, DOA12, DOA13, DOA14, DOA15, DOA16, DOA17,
    output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8,
    output DOB9, DOB10, DOB11, DOB12, DOB13, DOB14, DOB15, DOB16, DOB17
);
    /* verilator no_inline_module */
    wire [13:0] address_a = {
        ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0
    };
    wire [13:0] address_b = {
        ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0
    };
    wire [17:0] data_a = {
        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
        DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0
    };
    wire [17:0] data_b = {
        DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
        DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0
    };

    // A word of 18 bits is two bytes of nine; ports of 1, 2 and 4 bits see eight of each.
    reg [17:0] memory [0:1023];
    integer word;
    initial for (word = 0; word < 1024; word = word + 1) memory[word] = 0;

    localparam WIDE = DATA_WIDTH_A == 36;
    wire [9:0] row_a = WIDE ? {address_a[13:5], 1'b0} : address_a[13:4];
    wire [9:0] row_b = WIDE ? {address_b[13:5], 1'b0} : address_b[13:4];
    wire [4:0] place_a = address_a[3:0] + {4'd0, address_a[3]};
    wire [4:0] place_b = address_b[3:0] + {4'd0, address_b[3]};

    always @(posedge CLKA)
        if (CEA && WEA) begin
            if (DATA_WIDTH_A >= 18) begin
                if (address_a[0]) memory[row_a][8:0] <= data_a[8:0];
                if (address_a[1]) memory[row_a][17:9] <= data_a[17:9];
                if (WIDE && address_a[2]) memory[row_a | 1][8:0] <= data_b[8:0];
                if (WIDE && address_a[3]) memory[row_a | 1][17:9] <= data_b[17:9];
            end
            else memory[row_a][place_a +: DATA_WIDTH_A >= 18 ? 1 : DATA_WIDTH_A] <=
                data_a[(DATA_WIDTH_A >= 18 ? 1 : DATA_WIDTH_A) - 1:0];
        end

    // Ports A and B read by themselves, or, of words of 36 bits, port B both halves.
    reg [17:0] latch_a, latch_b, register_a, register_b;
    wire [17:0] read_a = memory[WIDE ? row_b : row_a];
    wire [17:0] read_b = memory[WIDE ? row_b | 1 : row_b];
    always @(posedge CLKA) if (OCEA) register_a <= latch_a;
    always @(posedge CLKB) begin
        if (WIDE ? CEB : CEA) latch_a <= DATA_WIDTH_A >= 18 ? read_a : read_a >> place_a;
        if (CEB) latch_b <= DATA_WIDTH_B >= 18 ? read_b : read_b >> place_b;
        if (OCEB) register_b <= latch_b;
    end
    assign {
        DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0
    } = REGMODE_A == "OUTREG" ? register_a : latch_a;
    assign {
        DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
        DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
    } = REGMODE_B == "OUTREG" ? register_b : latch_b;
endmodule

// Two columns of a carry chain: each adds its carry in to P = INIT[D, C, B, A], and generates INIT[0, 0, B, A].
module CCU2C #(
    parameter [15:0] INIT0 = 0,
    parameter [15:0] INIT1 = 0,
    parameter INJECT1_0 = "YES",
    parameter INJECT1_1 = "YES"
) (
    input CIN, A0, B0, C0, D0, A1, B1, C1, D1,
    output S0, S1, COUT
);
    /* verilator no_inline_module */
    wire propagate0 = INIT0[{D0, C0, B0, A0}];
    wire propagate1 = INIT1[{D1, C1, B1, A1}];
    wire inject0 = INJECT1_0 == "YES";
    wire inject1 = INJECT1_1 == "YES";
    wire carry = propagate0 ? CIN : !inject0 && INIT0[{2'b00, B0, A0}];
    assign S0 = propagate0 ^ (CIN && !inject0);
    assign S1 = propagate1 ^ (carry && !inject1);
    assign COUT = propagate1 ? carry : !inject1 && INIT1[{2'b00, B1, A1}];
endmodule

// Distributed RAM of 16 words of 4 bits.
module TRELLIS_DPR16X4 #(
    parameter WCKMUX = "WCK",
    parameter WREMUX = "WRE",
    parameter [63:0] INITVAL = 0
) (
    input [3:0] DI, WAD, RAD,
    input WRE, WCK,
    output [3:0] DO
);
    /* verilator no_inline_module */
    reg [3:0] memory [0:15];
    integer word;
    initial for (word = 0; word < 16; word = word + 1) memory[word] = INITVAL[4 * word +: 4];
    always @(posedge WCK) if (WRE) memory[WAD] <= DI;
    assign DO = memory[RAD];
endmodule

// Multiplier of 18x18 bits, each factor signed or not, with the output register.
module MULT18X18D #(
    parameter REG_OUTPUT_CLK = "NONE",
    parameter REG_OUTPUT_CE = "CE0",
    parameter REG_OUTPUT_RST = "RST0"
) (
    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17,
    output P18, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
    /* verilator no_inline_module */
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    wire signed [18:0] wide_a = {SIGNEDA && A17, a};
    wire signed [18:0] wide_b = {SIGNEDB && B17, b};
    reg signed [37:0] product;
    always @(posedge CLK0) if (CE0) product <= wide_a * wide_b;
    assign {
        P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
        P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
    } = product[35:0];
endmodule
