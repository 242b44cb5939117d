// What Yosys's library of the ECP5 leaves empty: block RAM, multiplier, clock generator and clock switch, as far as a
// synthesised device uses them. A cell that is set up otherwise ends the simulation.

module DP16KD(
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1,
    DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
    DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
    DOA0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
    DOB0
);
  parameter integer DATA_WIDTH_A = 18;
  parameter integer DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG";
  parameter REGMODE_B = "NOREG";
  parameter WRITEMODE_A = "NORMAL";
  parameter WRITEMODE_B = "NORMAL";
  parameter CLKAMUX = "CLKA";
  parameter CLKBMUX = "CLKB";
  parameter CSDECODE_A = "0b000";
  parameter CSDECODE_B = "0b000";
  parameter RESETMODE = "SYNC";
  parameter ASYNC_RESET_RELEASE = "SYNC";
  parameter GSR = "ENABLED";
  parameter [319:0] INITVAL_00 = 320'd0;
  parameter [319:0] INITVAL_01 = 320'd0;
  parameter [319:0] INITVAL_02 = 320'd0;
  parameter [319:0] INITVAL_03 = 320'd0;
  parameter [319:0] INITVAL_04 = 320'd0;
  parameter [319:0] INITVAL_05 = 320'd0;
  parameter [319:0] INITVAL_06 = 320'd0;
  parameter [319:0] INITVAL_07 = 320'd0;
  parameter [319:0] INITVAL_08 = 320'd0;
  parameter [319:0] INITVAL_09 = 320'd0;
  parameter [319:0] INITVAL_0A = 320'd0;
  parameter [319:0] INITVAL_0B = 320'd0;
  parameter [319:0] INITVAL_0C = 320'd0;
  parameter [319:0] INITVAL_0D = 320'd0;
  parameter [319:0] INITVAL_0E = 320'd0;
  parameter [319:0] INITVAL_0F = 320'd0;
  parameter [319:0] INITVAL_10 = 320'd0;
  parameter [319:0] INITVAL_11 = 320'd0;
  parameter [319:0] INITVAL_12 = 320'd0;
  parameter [319:0] INITVAL_13 = 320'd0;
  parameter [319:0] INITVAL_14 = 320'd0;
  parameter [319:0] INITVAL_15 = 320'd0;
  parameter [319:0] INITVAL_16 = 320'd0;
  parameter [319:0] INITVAL_17 = 320'd0;
  parameter [319:0] INITVAL_18 = 320'd0;
  parameter [319:0] INITVAL_19 = 320'd0;
  parameter [319:0] INITVAL_1A = 320'd0;
  parameter [319:0] INITVAL_1B = 320'd0;
  parameter [319:0] INITVAL_1C = 320'd0;
  parameter [319:0] INITVAL_1D = 320'd0;
  parameter [319:0] INITVAL_1E = 320'd0;
  parameter [319:0] INITVAL_1F = 320'd0;
  parameter [319:0] INITVAL_20 = 320'd0;
  parameter [319:0] INITVAL_21 = 320'd0;
  parameter [319:0] INITVAL_22 = 320'd0;
  parameter [319:0] INITVAL_23 = 320'd0;
  parameter [319:0] INITVAL_24 = 320'd0;
  parameter [319:0] INITVAL_25 = 320'd0;
  parameter [319:0] INITVAL_26 = 320'd0;
  parameter [319:0] INITVAL_27 = 320'd0;
  parameter [319:0] INITVAL_28 = 320'd0;
  parameter [319:0] INITVAL_29 = 320'd0;
  parameter [319:0] INITVAL_2A = 320'd0;
  parameter [319:0] INITVAL_2B = 320'd0;
  parameter [319:0] INITVAL_2C = 320'd0;
  parameter [319:0] INITVAL_2D = 320'd0;
  parameter [319:0] INITVAL_2E = 320'd0;
  parameter [319:0] INITVAL_2F = 320'd0;
  parameter [319:0] INITVAL_30 = 320'd0;
  parameter [319:0] INITVAL_31 = 320'd0;
  parameter [319:0] INITVAL_32 = 320'd0;
  parameter [319:0] INITVAL_33 = 320'd0;
  parameter [319:0] INITVAL_34 = 320'd0;
  parameter [319:0] INITVAL_35 = 320'd0;
  parameter [319:0] INITVAL_36 = 320'd0;
  parameter [319:0] INITVAL_37 = 320'd0;
  parameter [319:0] INITVAL_38 = 320'd0;
  parameter [319:0] INITVAL_39 = 320'd0;
  parameter [319:0] INITVAL_3A = 320'd0;
  parameter [319:0] INITVAL_3B = 320'd0;
  parameter [319:0] INITVAL_3C = 320'd0;
  parameter [319:0] INITVAL_3D = 320'd0;
  parameter [319:0] INITVAL_3E = 320'd0;
  parameter [319:0] INITVAL_3F = 320'd0;

  // Bytes of nine bits. A word is one, two or four of them, the first in the low bits.
  reg [8:0] memory[0:2047];

  task automatic initialise(input integer slice, input [319:0] value);
    // 16 words of 18 bits, each in 20.
    for (integer word = 0; word < 16; word = word + 1) begin
      memory[32 * slice + 2 * word] = value[20 * word +: 9];
      memory[32 * slice + 2 * word + 1] = value[20 * word + 9 +: 9];
    end
  endtask

  initial begin
    if (!(DATA_WIDTH_A inside {9, 18, 36}) || !(DATA_WIDTH_B inside {1, 2, 4, 9, 18, 36})) begin
      $fatal(1, "DP16KD: widths %0d and %0d are not modelled", DATA_WIDTH_A, DATA_WIDTH_B);
    end
    if (CLKAMUX != "CLKA" || CLKBMUX != "CLKB") $fatal(1, "DP16KD: inverted clocks are not modelled");
    if (WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH") begin
      $fatal(1, "DP16KD: write-through is not modelled");
    end
    initialise(0, INITVAL_00);
    initialise(1, INITVAL_01);
    initialise(2, INITVAL_02);
    initialise(3, INITVAL_03);
    initialise(4, INITVAL_04);
    initialise(5, INITVAL_05);
    initialise(6, INITVAL_06);
    initialise(7, INITVAL_07);
    initialise(8, INITVAL_08);
    initialise(9, INITVAL_09);
    initialise(10, INITVAL_0A);
    initialise(11, INITVAL_0B);
    initialise(12, INITVAL_0C);
    initialise(13, INITVAL_0D);
    initialise(14, INITVAL_0E);
    initialise(15, INITVAL_0F);
    initialise(16, INITVAL_10);
    initialise(17, INITVAL_11);
    initialise(18, INITVAL_12);
    initialise(19, INITVAL_13);
    initialise(20, INITVAL_14);
    initialise(21, INITVAL_15);
    initialise(22, INITVAL_16);
    initialise(23, INITVAL_17);
    initialise(24, INITVAL_18);
    initialise(25, INITVAL_19);
    initialise(26, INITVAL_1A);
    initialise(27, INITVAL_1B);
    initialise(28, INITVAL_1C);
    initialise(29, INITVAL_1D);
    initialise(30, INITVAL_1E);
    initialise(31, INITVAL_1F);
    initialise(32, INITVAL_20);
    initialise(33, INITVAL_21);
    initialise(34, INITVAL_22);
    initialise(35, INITVAL_23);
    initialise(36, INITVAL_24);
    initialise(37, INITVAL_25);
    initialise(38, INITVAL_26);
    initialise(39, INITVAL_27);
    initialise(40, INITVAL_28);
    initialise(41, INITVAL_29);
    initialise(42, INITVAL_2A);
    initialise(43, INITVAL_2B);
    initialise(44, INITVAL_2C);
    initialise(45, INITVAL_2D);
    initialise(46, INITVAL_2E);
    initialise(47, INITVAL_2F);
    initialise(48, INITVAL_30);
    initialise(49, INITVAL_31);
    initialise(50, INITVAL_32);
    initialise(51, INITVAL_33);
    initialise(52, INITVAL_34);
    initialise(53, INITVAL_35);
    initialise(54, INITVAL_36);
    initialise(55, INITVAL_37);
    initialise(56, INITVAL_38);
    initialise(57, INITVAL_39);
    initialise(58, INITVAL_3A);
    initialise(59, INITVAL_3B);
    initialise(60, INITVAL_3C);
    initialise(61, INITVAL_3D);
    initialise(62, INITVAL_3E);
    initialise(63, INITVAL_3F);
  end

  wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [17:0] data_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
    DIB3, DIB2, DIB1, DIB0};
  // Words of 36 bits take the data pins of both ports: they are written at A, and read at B.
  wire [35:0] data_a = {data_b, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
    DIA4, DIA3, DIA2, DIA1, DIA0};
  reg [35:0] read_a;
  reg [35:0] read_b;
  reg [35:0] held_a;
  reg [35:0] held_b;
  wire [35:0] out_a = REGMODE_A == "OUTREG" ? held_a : read_a;
  wire [35:0] out_b = REGMODE_B == "OUTREG" ? held_b : read_b;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
    DOA1, DOA0} = DATA_WIDTH_B == 36 ? out_b[17:0] : out_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
    DOB1, DOB0} = DATA_WIDTH_B == 36 ? out_b[35:18] : out_b[17:0];

  // The first byte of the addressed word; the low address bits that a wide word has no use for enable its bytes.
  function automatic [10:0] first(input integer width, input [13:0] address);
    first = width == 36 ? {address[13:5], 2'b00} : width == 18 ? {address[13:4], 1'b0} : address[13:3];
  endfunction

  always @(posedge CLKA) begin
    if (CEA) begin
      for (integer index = 0; index < DATA_WIDTH_A / 9; index = index + 1) begin
        if (!WEA || WRITEMODE_A == "READBEFOREWRITE") begin
          read_a[9 * index +: 9] <= memory[first(DATA_WIDTH_A, address_a) + 11'(index)];
        end
        if (WEA && (DATA_WIDTH_A == 9 || address_a[index])) begin
          memory[first(DATA_WIDTH_A, address_a) + 11'(index)] <= data_a[9 * index +: 9];
        end
      end
    end
    if (OCEA) held_a <= read_a;
    if (RSTA) begin
      read_a <= 36'd0;
      held_a <= 36'd0;
    end
  end

  always @(posedge CLKB) begin
    if (CEB) begin
      for (integer index = 0; index < DATA_WIDTH_B / 9; index = index + 1) begin
        if (!WEB || WRITEMODE_B == "READBEFOREWRITE") begin
          read_b[9 * index +: 9] <= memory[first(DATA_WIDTH_B, address_b) + 11'(index)];
        end
        if (WEB && (DATA_WIDTH_B == 9 || address_b[index])) begin
          memory[first(DATA_WIDTH_B, address_b) + 11'(index)] <= data_b[9 * index +: 9];
        end
      end
    end
    // Narrow ports, which only read here, do not reach the ninth bits.
    if (CEB && DATA_WIDTH_B < 9) begin
      read_b[3:0] <= 4'(memory[address_b[13:3]][7:0] >> (address_b[2:0] & 3'(8 - DATA_WIDTH_B)));
      if (WEB) $fatal(1, "DP16KD: writes of %0d bits are not modelled", DATA_WIDTH_B);
    end
    if (OCEB) held_b <= read_b;
    if (RSTB) begin
      read_b <= 36'd0;
      held_b <= 36'd0;
    end
  end
endmodule

module MULT18X18D(
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
    P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  parameter REG_INPUTA_CLK = "NONE";
  parameter REG_INPUTB_CLK = "NONE";
  parameter REG_PIPELINE_CLK = "NONE";
  parameter REG_OUTPUT_CLK = "NONE";
  parameter REG_OUTPUT_CE = "CE0";
  parameter REG_OUTPUT_RST = "RST0";

  initial begin
    if (REG_INPUTA_CLK != "NONE" || REG_INPUTB_CLK != "NONE" || REG_PIPELINE_CLK != "NONE") begin
      $fatal(1, "MULT18X18D: input and pipeline registers are not modelled");
    end
    if (!(REG_OUTPUT_CLK == "NONE" || REG_OUTPUT_CLK == "CLK0") || REG_OUTPUT_CE != "CE0" || REG_OUTPUT_RST != "RST0")
    begin
      $fatal(1, "MULT18X18D: clocks, enables and resets but the first are not modelled");
    end
  end

  wire signed [18:0] a = {SIGNEDA & A17, A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1,
    A0};
  wire signed [18:0] b = {SIGNEDB & B17, B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1,
    B0};
  wire signed [37:0] product = a * b;
  reg [35:0] held;
  always @(posedge CLK0) begin
    if (RST0) held <= 36'd0;
    else if (CE0) held <= product[35:0];
  end
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
    P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = REG_OUTPUT_CLK == "CLK0" ? held : product[35:0];
endmodule

// The output runs at the input's rate, whatever the dividers: no simulation of ours measures time.
module EHXPLLL(
  input CLKI, CLKFB, PHASESEL1, PHASESEL0, PHASEDIR, PHASESTEP, PHASELOADREG, STDBY, PLLWAKESYNC, RST, ENCLKOP,
  output CLKOP, LOCK
);
  parameter CLKI_DIV = 1;
  parameter CLKFB_DIV = 1;
  parameter CLKOP_DIV = 8;
  parameter CLKOP_CPHASE = 0;
  parameter CLKOP_FPHASE = 0;
  parameter CLKOP_ENABLE = "ENABLED";
  parameter FEEDBK_PATH = "CLKOP";
  assign CLKOP = CLKI;
  assign LOCK = 1'b1;
endmodule

// Switches while the clock is low, so that no pulse is cut short.
module DCCA(input CLKI, CE, output CLKO);
  reg open;
  always_latch if (!CLKI) open = CE;
  assign CLKO = CLKI & open;
endmodule

module TRELLIS_INPUT #(parameter DIR = "INPUT") (input B, output O);
  assign O = B;
endmodule

module TRELLIS_OUTPUT #(parameter DIR = "OUTPUT") (output B, input I, T);
  initial if (T) $fatal(1, "TRELLIS_IO: an output that is switched off is not modelled");
  assign B = I;
endmodule
