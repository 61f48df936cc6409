"""Compile the kernels for GPUs, which Triton can without one; run by test_gpu.py in a process of its own."""

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from ropo.ops.gpu import rotation, stretch
from ropo.ops.trees import MAX_BLOCK

TARGETS = {("A100", "bf16"): 80, ("H100", "fp32"): 90}
POINTERS = {
    "_read": ("x", "read", "each"),
    "_turn": ("x", "local", "mixed", "write", "out"),
    "_gradients": ("x", "grad", "mixed_back", "mixed", "d_local", "d_read", "d_write"),
    "_stretch": ("y", "scale", "bias", "z"),
    "_stretch_gradients": ("grad", "z", "scale", "bias", "grad_y", "parts"),
}
ACTIVATIONS = {"x", "out", "grad", "y", "z", "bias", "grad_y"}
CONSTANTS = {
    "_read": {"CHANNELS": 3, "BLOCK": MAX_BLOCK, "TOKENS": rotation.TOKENS},
    "_turn": {"CHANNELS": 3, "BLOCK": MAX_BLOCK, "TOKENS": rotation.TOKENS},
    "_gradients": {"CHANNELS": 3, "ROWS": 16, "BLOCK": MAX_BLOCK, "TOKENS": rotation.SUMMED},
    "_stretch": {"NEURONS": stretch.NEURONS, "TOKENS": stretch.TOKENS},
    "_stretch_gradients": {"NEURONS": stretch.NEURONS, "TOKENS": stretch.TOKENS},
}


def source_of(module, name, dtype, bias):
    kernel = getattr(module, name)
    constants = dict(CONSTANTS[name])
    if not bias and "bias" in kernel.arg_names:
        constants["bias"] = None
    signature = {}
    for argument in kernel.arg_names:
        pointer = f"*{dtype if argument in ACTIVATIONS else 'fp32'}" if argument in POINTERS[name] else "i32"
        signature[argument] = "constexpr" if argument in constants else pointer
    return ASTSource(kernel, signature=signature, constexprs=constants)


def main() -> None:
    compiled = 0
    for (gpu, dtype), capability in TARGETS.items():
        for module, name, bias in (
            *((rotation, name, False) for name in ("_read", "_turn", "_gradients")),
            *((stretch, name, bias) for name in ("_stretch", "_stretch_gradients") for bias in (True, False)),
        ):
            result = compile(source_of(module, name, dtype, bias), target=GPUTarget("cuda", capability, 32))
            assert len(result.asm["cubin"]) > 1000
            print(gpu, dtype, name, "bias" if bias else "", result.metadata.shared, "bytes of shared memory")
            compiled += 1
    print("compiled", compiled)


if __name__ == "__main__":
    main()
