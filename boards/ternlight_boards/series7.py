"""PCIe's hard block of the 7 series, as Xilinx's core wraps it (PG054), between its pins and our endpoint."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Cat, ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io

from ternlight.pcie_map import BAR_BYTES, CLASS_CODE, DEVICE_ID, VENDOR_ID
from ternlight_hw.pcie import PcieTop

CORE = "pcie_7x_0"
"""The name that the core is generated under."""

SETTINGS: Mapping[str, str] = {
    "Component_Name": CORE,
    "Device_Port_Type": "PCI_Express_Endpoint_device",
    "Maximum_Link_Width": "X1",
    "Link_Speed": "2.5_GT/s",
    "Interface_Width": "64_bit",
    "User_Clk_Freq": "62.5",
    "Max_Payload_Size": "512_bytes",
    "Vendor_ID": f"{VENDOR_ID:04X}",
    "Device_ID": f"{DEVICE_ID:04X}",
    "Class_Code_Base": f"{CLASS_CODE >> 16:02X}",
    "Class_Code_Sub": f"{CLASS_CODE >> 8 & 0xFF:02X}",
    "Class_Code_Interface": f"{CLASS_CODE & 0xFF:02X}",
    "Bar0_Enabled": "true",
    "Bar0_Type": "Memory",
    "Bar0_64bit": "false",
    "Bar0_Prefetchable": "false",
    "Bar0_Scale": "Kilobytes",
    "Bar0_Size": str(BAR_BYTES // 1024),
    "IntX_Generation": "false",
    "MSI_Enabled": "true",
    "Multiple_Message_Capable": "1_vector",
    "MSIx_Enabled": "false",
    "Trim_TLP_Digest": "true",
    "Extended_Tag_Field": "false",
}
"""How the core must be generated; its names of the settings (Vivado's pcie_7x)."""
CLOCK_HZ = 62_500_000
"""What User_Clk_Freq means for the device."""

PORTS: Mapping[str, tuple[str, int]] = {
    "sys_clk": ("input", 1),
    "sys_rst_n": ("input", 1),
    "pci_exp_txp": ("output", 1),
    "pci_exp_txn": ("output", 1),
    "pci_exp_rxp": ("input", 1),
    "pci_exp_rxn": ("input", 1),
    "user_clk_out": ("output", 1),
    "user_reset_out": ("output", 1),
    "m_axis_rx_tdata": ("output", 64),
    "m_axis_rx_tkeep": ("output", 8),
    "m_axis_rx_tlast": ("output", 1),
    "m_axis_rx_tvalid": ("output", 1),
    "m_axis_rx_tready": ("input", 1),
    "rx_np_ok": ("input", 1),
    "rx_np_req": ("input", 1),
    "s_axis_tx_tdata": ("input", 64),
    "s_axis_tx_tkeep": ("input", 8),
    "s_axis_tx_tlast": ("input", 1),
    "s_axis_tx_tvalid": ("input", 1),
    "s_axis_tx_tready": ("output", 1),
    "s_axis_tx_tuser": ("input", 4),
    "tx_cfg_gnt": ("input", 1),
    "cfg_bus_number": ("output", 8),
    "cfg_device_number": ("output", 5),
    "cfg_function_number": ("output", 3),
    "cfg_command": ("output", 16),
    "cfg_dcommand": ("output", 16),
    "cfg_interrupt": ("input", 1),
    "cfg_interrupt_rdy": ("output", 1),
    "cfg_interrupt_di": ("input", 8),
    "cfg_interrupt_assert": ("input", 1),
    "cfg_interrupt_msienable": ("output", 1),
}
"""The core's ports that we use; its other inputs are to be tied to 0 where it is generated."""


def core_stub() -> str:
    """The core as a black box in Verilog, for synthesis without it."""
    ports = ",\n".join(f"  {way} [{width - 1}:0] {name}" for name, (way, width) in PORTS.items())
    return f"(* blackbox *)\nmodule {CORE} (\n{ports}\n);\nendmodule\n"


class Series7Device(Elaboratable):
    """The device behind the hard block: the core's clock and reset are the device's, so that nothing crosses clocks.

    The resource `pcie` has clk, rst, and one lane of rx and tx; the resource `led` shines while the device
    works. A reset of the link resets all registers: the host loads its image again.

    Parameters: top, a PcieTop, or what has its members.
    """

    def __init__(self, top: PcieTop) -> None:
        self.top = top

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.top = top = self.top
        pins = platform.request("pcie", 0, dir="-")
        m.submodules.reset_pin = reset = io.Buffer("i", pins.rst)  # active low: set while the link is reset
        m.submodules.led_pin = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        reference = Signal()
        m.submodules.reference = Instance("IBUFDS_GTE2", i_I=pins.clk.p, i_IB=pins.clk.n, i_CEB=0, o_O=reference)

        lines = {name: Signal(width, name=name) for name, (_, width) in PORTS.items() if not name.startswith("pci_")}
        lines |= {
            "pci_exp_txp": pins.tx.p,
            "pci_exp_txn": pins.tx.n,
            "pci_exp_rxp": pins.rx.p,
            "pci_exp_rxn": pins.rx.n,
        }
        m.submodules.core = Instance(CORE, *((way[0], name, lines[name]) for name, (way, _) in PORTS.items()))
        received, sent, configuration = top.receive.payload, top.transmit.payload, top.configuration
        m.d.comb += [
            ClockSignal().eq(lines["user_clk_out"]),
            ResetSignal().eq(lines["user_reset_out"]),
            lines["sys_clk"].eq(reference),
            lines["sys_rst_n"].eq(~reset.i),
            # The low bytes of `keep` are those of the first word, and a word comes whole.
            received.data.eq(lines["m_axis_rx_tdata"]),
            received.keep.eq(Cat(lines["m_axis_rx_tkeep"][0], lines["m_axis_rx_tkeep"][4])),
            received.last.eq(lines["m_axis_rx_tlast"]),
            top.receive.valid.eq(lines["m_axis_rx_tvalid"]),
            lines["m_axis_rx_tready"].eq(top.receive.ready),
            lines["rx_np_ok"].eq(top.room),
            lines["rx_np_req"].eq(1),
            lines["s_axis_tx_tdata"].eq(sent.data),
            lines["s_axis_tx_tkeep"].eq(Cat(sent.keep[0].replicate(4), sent.keep[1].replicate(4))),
            lines["s_axis_tx_tlast"].eq(sent.last),
            lines["s_axis_tx_tvalid"].eq(top.transmit.valid),
            top.transmit.ready.eq(lines["s_axis_tx_tready"]),
            lines["s_axis_tx_tuser"].eq(Const(0, 4)),
            lines["tx_cfg_gnt"].eq(1),
            configuration.requester.eq(
                Cat(lines["cfg_function_number"], lines["cfg_device_number"], lines["cfg_bus_number"])
            ),
            configuration.max_payload.eq(lines["cfg_dcommand"][5:8]),
            configuration.max_read.eq(lines["cfg_dcommand"][12:15]),
            configuration.master.eq(lines["cfg_command"][2]),
            configuration.interrupt.eq(lines["cfg_interrupt_msienable"]),
            lines["cfg_interrupt"].eq(top.interrupt),
            top.interrupt_done.eq(lines["cfg_interrupt_rdy"]),
            led.o.eq(top.active),
        ]
        return m
