"""Reading the compiler's text: sizes, sums and the schedule, on texts whose answers are known by hand."""
# ruff: noqa: E501 - the compiler writes long lines

import pytest

from autoprune.cost.compiler import hlo

MODULE = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[64,100]{1,0:T(8,128)(2,1)}, /*index=1*/f32[8]{0:T(128)})->bf16[8]{0}}

%fused (p: bf16[8]) -> bf16[8] {
  ROOT %inside = bf16[8]{0} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

%body (arg: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %step = bf16[8]{0} fusion(%arg), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"10"}
}

ENTRY %main (a: bf16[64,100], b: f32[8]) -> bf16[8] {
  %a = bf16[64,100]{1,0:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[64,100]{1,0:T(8,128)(2,1)S(1)}, bf16[64,100]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %first = bf16[8]{0} fusion(%b), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100","x":"y"}
  %copy-done = bf16[64,100]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %second = bf16[8]{0} fusion(%copy-done, %first), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"50"}
  ROOT %loop = (s32[], bf16[8]{0}) while(%second), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32[1,1]{1,0:T(8,128)}", 8 * 128 * 4),
        ("bf16[3,3,64,100]{3,2,1,0:T(8,128)(2,1)}", 9 * 64 * 128 * 2),
        ("bf16[10]{0:T(256)(128)(2,1)}", 256 * 2),
        ("f32[128,32,32,3]{0,2,3,1:T(8,128)}", 32 * 3 * 32 * 128 * 4),  # minor to major: batch, width, colour, height
        ("u32[]{:S(2)}", 4),
        ("pred[16]{0}", 16),
        ("(f32[8,128]{1,0:T(8,128)}, bf16[10]{0:T(256)(128)(2,1)})", 8 * 128 * 4 + 512),
    ],
)
def test_padded_bytes_counts_whole_tiles(shape, expected):
    assert hlo.bytes_with_padding(shape) == expected


def test_parameters_are_the_entry_layout():
    assert hlo.parse_module(MODULE).parameters == ("bf16[64,100]{1,0:T(8,128)(2,1)}", "f32[8]{0:T(128)}")


def test_plain_sum_counts_kernels_once_and_loops_as_often_as_they_run():
    # A fusion's body is inside its own estimate.
    assert hlo.total_cycles(hlo.parse_module(MODULE)) == 100 + 50 + 3 * 10


def test_schedule_waits_for_a_slow_copy_only():
    module = hlo.parse_module(MODULE)
    size = 64 * 128 * 2
    fast = dict((i.name, delay) for i, delay in hlo.walk_schedule(module, clock=1.0, bandwidth=1e12))
    slow = dict((i.name, delay) for i, delay in hlo.walk_schedule(module, clock=1.0, bandwidth=size / 400))
    assert sum(fast.values()) == pytest.approx(180)
    assert sum(slow.values()) == pytest.approx(400 + 50 + 30)
    assert {name: delay for name, delay in slow.items() if delay} == pytest.approx(
        {"first": 100, "copy-done": 300, "second": 50, "loop": 30}
    )


def test_traffic_counts_what_does_not_lie_on_the_chip():
    """The copy once, small operands and results of three kernels outside, and the loop's three times."""
    module = hlo.parse_module(MODULE)
    copy, small = 64 * 128 * 2, 8 * 2
    first = small  # Its operand is a parameter that the text does not define.
    second = small + small  # `%copy-done` lies on the chip, `%first` does not.
    assert hlo.hbm_traffic(module) == copy + first + second + 3 * small


def test_kernels_tell_the_layers_they_compute():
    text = """ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %k = f32[8]{0} fusion(%a), kind=kLoop, calls=%both, metadata={op_name="jit(forward)/net/conv2/conv"}
}

%both (p: f32[8]) -> f32[8] {
  %one = f32[8]{0} add(%p, %p), metadata={op_name="jit(forward)/net/conv1/conv"}
  ROOT %two = f32[8]{0} add(%one, %p), metadata={op_name="jit(forward)/net/conv2/conv"}
}
"""
    module = hlo.parse_module(text)
    assert hlo.kernel_layers(module, module.computations["main"][1]) == ["net/conv2", "net/conv1"]


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no entry"):
        hlo.parse_module("HloModule nothing\n")
