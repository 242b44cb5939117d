"""Models of the cells that synthesis makes, to simulate what is placed and routed in the place of the design."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ternlight_boards import tools

FLATTEN = """\
read_json {netlist}
# The empty modules that stand for the cells, to make room for their models.
delete =A:blackbox
# A pin drives both ways, and Verilator no port that is an input: one module for each direction.
chtype -set TRELLIS_INPUT t:TRELLIS_IO r:DIR=INPUT %i
chtype -set TRELLIS_OUTPUT t:TRELLIS_IO r:DIR=OUTPUT %i
read_verilog -D NO_INCLUDES +/lattice/common_sim.vh +/lattice/ccu2c_sim.vh
read_verilog -overwrite {tables}
hierarchy -top {top}
# Yosys's models are marked as cells of its library, which stay as they are.
setattr -mod -unset lib_whitebox -unset whitebox -unset abc9_box -unset abc9_flop =A:*
proc -noopt
flatten -wb -noscopeinfo
rename -hide w:*
splitnets
opt_clean -purge
rename -enumerate -pattern n%
write_verilog -noattr {output}
"""


def simulated_ecp5(netlist: Path, top: str, work: Path) -> str:
    """Verilog that simulates a netlist of Yosys's synth_ecp5, for the module `top`: with models of all its cells.

    Tables, flip-flops, carries and distributed RAM are put in their places, by Yosys's own models: Verilator takes much
    longer for as many instances. The larger cells, for which Yosys has none, have theirs in ecp5.sv.

    work: folder for the products. Raises BuildError without the package pyosys.
    """
    models = Path(str(resources.files(__package__)))
    connected = work / "connected.json"
    connected.write_text(json.dumps(_connected(json.loads(netlist.read_text()))))
    output = work / "flat.v"
    script = work / "flatten.ys"
    script.write_text(FLATTEN.format(netlist=connected.absolute(), tables=models / "tables.v", top=top, output=output))
    tools.run("yosys", [str(script)], folder=work, log=work / "flatten.log")
    return output.read_text() + (models / "ecp5.sv").read_text()


def _connected(netlist: dict[str, Any]) -> dict[str, Any]:
    """The netlist without connections to nothing (ternlight_boards.carries), which Yosys takes for constants."""
    for module in netlist["modules"].values():
        for cell in module["cells"].values():
            connections = cell["connections"]
            cell["connections"] = {port: bits for port, bits in connections.items() if bits != ["x"]}
    return netlist
