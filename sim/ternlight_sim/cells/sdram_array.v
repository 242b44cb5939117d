// The cells of an SDRAM: what Amaranth's memories would spell out word by word.
module sdram_array #(
    parameter WIDTH = 16,
    parameter ADDRESS_BITS = 24
) (
    input clk,
    input write,
    input [ADDRESS_BITS-1:0] write_address,
    input [WIDTH-1:0] write_data,
    input [ADDRESS_BITS-1:0] read_address,
    output [WIDTH-1:0] read_data
);
  reg [WIDTH-1:0] cells[0:(1<<ADDRESS_BITS)-1];
  assign read_data = cells[read_address];
  always @(posedge clk) if (write) cells[write_address] <= write_data;
endmodule
