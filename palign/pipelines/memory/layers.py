"""What one decoder layer keeps for its backward pass, and what its passes take beside that: bytes by formula.

The formulas are of a Llama of transformers as PyTorch runs it, scaled-dot-product attention under a mask, PEFT's LoRA
beside its linear maps. A norm computes in float32 and keeps its input so; LoRA's matrices are in float32 beside
weights of any type, and keep their own copy of an input that is of another type.
"""

from dataclasses import dataclass

from palign.pipelines.memory.shape import LINEARS, ModelShape

__all__ = ["Precision", "Trained", "kept", "passing", "turning"]

ENTERS = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}


@dataclass(frozen=True)
class Precision:
    """Bytes of a number.

    Attributes:
        weight: as weights are held.
        autocasts: whether linear maps compute in 2 bytes under autocast.
    """

    weight: int = 4
    autocasts: bool = False

    @property
    def compute(self) -> int:
        """Of what linear maps and attention give."""
        return 2 if self.autocasts else self.weight

    @property
    def stream(self) -> int:
        """Of the states between layers."""
        return self.weight

    @property
    def copies_weights(self) -> bool:
        """Whether autocast makes copies of weights."""
        return self.autocasts and self.weight > 2


@dataclass(frozen=True)
class Trained:
    """What of the layers is trained.

    Attributes:
        rank: of LoRA; 0: all weights are trained.
        targets: linear maps that have LoRA.
        dropout: whether it drops inputs of LoRA.
        mask_bytes: of a number of the dropout's mask: 1 on a GPU, as many as the number's on the CPU.
    """

    rank: int = 0
    targets: tuple[str, ...] = LINEARS
    dropout: bool = False
    mask_bytes: int = 1


def kept(shape: ModelShape, precision: Precision, trained: Trained, n_tokens: int, length: int) -> float:
    """Bytes that autograd keeps of one layer.

    Args:
        n_tokens: padding included.
        length: of a sequence, for the mask of attention.
    """
    h, c = shape.hidden, precision.compute
    per_token = 2 * (4 * h + 4)  # norms: their input in float32, and one over its root mean square
    per_token += 4 * shape.query * c + 4 * shape.n_heads + length * c  # q, k and v repeated, result; sums; mask
    per_token += 3 * shape.intermediate * c  # gate, its activation, up
    if shape.normalizes_heads:
        per_token += 4 * (shape.query + shape.key + shape.n_heads + shape.n_kv_heads)
    per_token += _inputs(shape, precision, trained)
    fixed = 2 * sum(n_in * n_out for n_in, n_out in shape.linears.values()) if precision.copies_weights else 0
    if trained.rank and precision.autocasts:
        fixed += 2 * shape.adapter_parameters(trained.rank, trained.targets) / shape.n_layers
    return n_tokens * per_token + fixed


def _inputs(shape: ModelShape, precision: Precision, trained: Trained) -> float:
    """Bytes a token of the inputs of linear maps that autograd keeps for the gradients of what is trained."""
    c, copies = precision.compute, precision.copies_weights
    if not trained.rank:
        n_in, n_mlp = (3, 2) if copies else (1, 1)
        norms = 2 * shape.hidden * precision.stream
        return norms + c * ((n_in + n_mlp) * shape.hidden + shape.intermediate)
    widths = {name: shape.linears[name][0] for name in trained.targets}
    low = len(widths) * trained.rank * (2 if precision.autocasts else 4)
    own = 2 if precision.autocasts else 4
    if trained.dropout:
        mask = trained.mask_bytes if trained.mask_bytes == 1 else 4
        return low + sum(widths.values()) * (own + mask)
    if precision.autocasts or precision.weight < 4:
        return low + sum(widths.values()) * own
    shared = {ENTERS[name]: width for name, width in widths.items() if name in ENTERS}
    return low + 4 * (sum(shared.values()) + widths.get("down_proj", 0))


def turning(shape: ModelShape, precision: Precision, trained: Trained, n_tokens: int) -> float:
    """Bytes that a layer's backward pass takes beside what was kept: gradients of the MLP's middle and of states."""
    wide = 4 if trained.rank else precision.compute
    gradient = 0 if trained.rank else shape.hidden * shape.intermediate * precision.weight
    return n_tokens * (2 * shape.intermediate * wide + shape.hidden * precision.stream) + gradient


def passing(shape: ModelShape, precision: Precision, n_tokens: int, length: int, *, has_lora: bool) -> float:
    """Bytes of one layer in a pass without gradients, at its widest: in the MLP or in attention."""
    h, i, c = shape.hidden, shape.intermediate, precision.compute
    result = (4 if precision.weight < 4 and not precision.autocasts else c) if has_lora else 0
    mlp = h * c + i * (2 * c + 2 * result if has_lora else 3 * c)
    attention = 5 * shape.query * c + 2 * shape.key * c + 2 * length * c
    cast = 2 * h * i if precision.copies_weights else 0
    return n_tokens * (h * precision.stream + max(mlp, attention)) + cast
