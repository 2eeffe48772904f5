"""scripts/hlo.py, on a hand-written program: three steps, each of two kernels and a loop of five."""

import hlo
import pytest

PROGRAM = """HloModule jit_epoch, is_scheduled=true

%gather_rows (images: u8[100,8], index: s32[4]) -> f32[4,8] {
  %images = u8[100,8]{1,0} parameter(0)
  %index = s32[4]{0} parameter(1)
  %rows = u8[4,8]{1,0} gather(%images, %index), offset_dims={1}
  ROOT %pixels = f32[4,8]{1,0} convert(%rows)
}

%inner_body (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %y = f32[8,8]{1,0} custom-call(%x, %x), custom_call_target="__cublas$gemm"
}

%condition (x: f32[8,8]) -> pred[] {
  %x.1 = f32[8,8]{1,0} parameter(0)
  ROOT %less = pred[] constant(true)
}

%step (state: (f32[8,8], u8[100,8], s32[4])) -> (f32[8,8], u8[100,8], s32[4]) {
  %state = (f32[8,8]{1,0}, u8[100,8]{1,0}, s32[4]{0}) parameter(0)
  %w = f32[8,8]{1,0} get-tuple-element(%state), index=0
  %data = u8[100,8]{1,0} get-tuple-element(%state), index=1
  %order = s32[4]{0} get-tuple-element(%state), index=2
  %batch = f32[4,8]{1,0} fusion(%data, %order), kind=kLoop, calls=%gather_rows
  %looped = f32[8,8] while(%w), condition=%condition, body=%inner_body, backend_config={"known_trip_count":{"n":"5"}}
  %start = f32[8,8]{1,0} all-reduce-start(%looped), channel_id=1, to_apply=%condition
  %summed = f32[8,8]{1,0} all-reduce-done(%start)
  ROOT %next = (f32[8,8]{1,0}, u8[100,8]{1,0}, s32[4]{0}) tuple(%summed, %data, %order)
}

ENTRY %main (a: (f32[8,8], u8[100,8], s32[4])) -> (f32[8,8], u8[100,8], s32[4]) {
  %a = (f32[8,8]{1,0}, u8[100,8]{1,0}, s32[4]{0}) parameter(0)
  ROOT %epoch = (f32[8,8]{1,0}, u8[100,8]{1,0}, s32[4]{0}) while(%a), condition=%condition, body=%step, CONFIG
}
"""


@pytest.fixture
def program():
    return hlo.computations(PROGRAM.replace("CONFIG", 'backend_config={"known_trip_count":{"n":"3"}}'))


def test_the_loop_over_the_steps_is_found(program):
    assert hlo.loop_bodies(program) == ["step"]
    assert hlo.loop_bodies(program, "step") == ["inner_body"]


def test_kernels_are_fusions_library_calls_and_collectives(program):
    assert hlo.kernels(program, "step") == 1 + 5 + 1
    assert hlo.kernels(program, "ENTRY") == 3 * 7


def test_a_gather_reads_the_rows_and_not_the_dataset(program):
    # 4 rows as float32 written, as many bytes read at most, and the order; 5 products of 8x8; the all-reduce.
    assert hlo.bytes_moved(program, "step") == (128 + 128 + 16) + 5 * 3 * 256 + 2 * 256


def test_collectives_are_found_once(program):
    assert [operation.opcode for operation in hlo.collectives(program, "ENTRY")] == ["all-reduce"]


def test_transfers_are_infeeds_outfeeds_and_callbacks(program):
    assert hlo.transfers(program, "ENTRY") == []
    lines = '%c = () custom-call(%x), custom_call_target="xla_ffi_python_gpu_callback"', "%o = token[] outfeed(%x)"
    program["inner_body"] += hlo.computations("ENTRY %f () -> () {\n  " + "\n  ".join(lines) + "\n}")["ENTRY"]
    assert len(hlo.transfers(program, "ENTRY")) == 2
