"""The structs and the prototypes are those of genesis_moe.h."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from genesis_moe import _abi, options

STRUCTS = {
    "DLTensor": _abi.DLTensor,
    "gmoe_engine_options": _abi.EngineOptions,
    "gmoe_counters": _abi.Counters,
    "gmoe_router_options": _abi.RouterOptions,
    "gmoe_router_forward_args": _abi.RouterForwardArgs,
    "gmoe_router_backward_args": _abi.RouterBackwardArgs,
    "gmoe_router_update_args": _abi.RouterUpdateArgs,
    "gmoe_router_report_args": _abi.RouterReportArgs,
    "gmoe_router_report": _abi.RouterReport,
    "gmoe_clans_options": _abi.ClansOptions,
    "gmoe_clans_descend_args": _abi.ClansDescendArgs,
    "gmoe_clans_observe_args": _abi.ClansObserveArgs,
    "gmoe_experts_options": _abi.ExpertsOptions,
    "gmoe_experts_forward_args": _abi.ExpertsForwardArgs,
    "gmoe_experts_backward_args": _abi.ExpertsBackwardArgs,
    "gmoe_experts_quantize_args": _abi.ExpertsQuantizeArgs,
    "gmoe_meter_options": _abi.MeterOptions,
    "gmoe_meter_reading": _abi.MeterReading,
    "gmoe_recorder_options": _abi.RecorderOptions,
    "gmoe_monitor_options": _abi.MonitorOptions,
    "gmoe_monitor_file_options": _abi.MonitorFileOptions,
}
ENUMS = {
    "ROUTER": options.MODES,
    "BINDING": options.BINDINGS,
    "SOLVER": options.SOLVERS,
    "ACTIVATION": options.ACTIVATIONS,
    "SOURCE": options.SOURCES,
    "QUALITY": options.QUALITIES,
}


def test_sizes_offsets_and_constants(root: Path, tmp_path: Path) -> None:
    lines, expected = [], []

    def same(expression: str, value: int) -> None:
        lines.append(f'printf("{expression} %lld\\n", (long long)({expression}));')
        expected.append(f"{expression} {value}")

    same("GMOE_ABI_VERSION", _abi.ABI_VERSION)
    same("GMOE_CLANS_HISTOGRAM_BINS", _abi.CLANS_HISTOGRAM_BINS)
    for name, struct in STRUCTS.items():
        same(f"sizeof({name})", ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            same(f"offsetof({name}, {field})", getattr(struct, field).offset)
            same(f"sizeof((({name} *)0)->{field})", getattr(struct, field).size)
    for prefix, names in ENUMS.items():
        for number, enumerator in enumerate(names):
            same(f"GMOE_{prefix}_{enumerator.upper()}", number)
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include "genesis_moe.h"\nint main(void) {\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["cc", "-std=c99", f"-I{root / 'include'}", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert printed.split("\n")[:-1] == expected


def header(root: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", (root / "include" / "genesis_moe.h").read_text(), flags=re.S)


def test_every_field_is_there(root: Path) -> None:
    for body, name in re.findall(r"typedef struct \{(.*?)\} (gmoe_\w+);", header(root), flags=re.S):
        fields = [word for line in body.split(";") for word in re.findall(r"(\w+)\s*(?:,|$)", line.strip())]
        assert fields == [field for field, *_ in STRUCTS[name]._fields_], name


def test_every_function_has_a_prototype(root: Path) -> None:
    declared = dict(re.findall(r"^[\w ]+?[ *](gmoe_\w+)\(([^)]*)\);", header(root), flags=re.M))
    assert set(declared) == set(_abi.PROTOTYPES)
    for name, parameters in declared.items():
        count = 0 if parameters.strip() == "void" else parameters.count(",") + 1
        assert len(_abi.PROTOTYPES[name][0]) == count, name


@pytest.mark.parametrize(
    ("macro", "struct"),
    [
        ("GMOE_ROUTER_OPTIONS_INIT", options.router_struct(*options.RouterOptions().scalars())),
        (
            "GMOE_EXPERTS_OPTIONS_INIT",
            options.experts_struct(*options.experts_scalars("silu", True, False, 1.702, 7.0)),
        ),
    ],
)
def test_defaults_are_those_of_the_macros(
    root: Path, tmp_path: Path, macro: str, struct: ctypes.Structure
) -> None:
    kind = next(name for name, mirror in STRUCTS.items() if isinstance(struct, mirror))
    fields = [field for field, *_ in struct._fields_]
    prints = "".join(f'printf("%.9g\\n", (double)o.{field});' for field in fields)
    source = tmp_path / "defaults.c"
    source.write_text(
        f'#include <stdio.h>\n#include "genesis_moe.h"\nint main(void) {{ {kind} o = {macro}; {prints} return 0; }}\n'
    )
    program = tmp_path / "defaults"
    subprocess.run(["cc", f"-I{root / 'include'}", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
    assert [float(text) for text in printed] == pytest.approx([float(getattr(struct, f)) for f in fields])
