"""Files of saved folders, each kind by one reader: what cannot be right is one sentence with the file's name.

Nothing that these give can be NaN, infinite or beyond all measure without a word: a model is read as it was saved, or
not at all.
"""

import contextlib
import json
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = [
    "is_on_purpose", "number_in", "read_json", "read_table", "read_tensors", "reading", "require_files",
    "require_finite", "require_tensors",
]  # fmt: skip

LARGEST = 1e15  # of a saved number; beyond, squares and sums of float32 soon end
WHOLE_COPY = "Give a whole copy of the folder, or save it again."


def _unreadable(path: Path, error: OSError) -> ValueError:
    """A file that is there and not for this user, or that a disk does not give."""
    if isinstance(error, FileNotFoundError):
        return ValueError(f"There is no file {str(path)!r}. {WHOLE_COPY}")
    advice = "Ask its owner for the right to read it." if isinstance(error, PermissionError) else WHOLE_COPY
    return ValueError(f"{path} cannot be read ({error.strerror or type(error).__name__}). {advice}")


def read_json(
    path: str | Path, kind: type | None = None, *, allows_nan: bool = False, surrogates: bool = False
) -> Any:
    """What a JSON file holds.

    Args:
        kind: dict or list, which it must be; None is either.
        allows_nan: NaN and Infinity are read, in files whose numbers are not used.
        surrogates: halves of characters are read too, as ids of people may have them.

    Raises:
        ValueError: unreadable, not UTF-8, not JSON, a key that is there twice, or of another kind.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    fault = None
    try:
        text = raw.decode("utf-8", "surrogatepass" if surrogates else "strict")
        content = json.loads(
            text, object_pairs_hook=_one_of_each, parse_constant=None if allows_nan else _refused_constant
        )
    except UnicodeDecodeError as error:
        fault = f"is no text in UTF-8 ({error.reason} at byte {error.start})"
    except json.JSONDecodeError as error:
        fault = "is empty" if not raw.strip() else f"is not JSON ({error})"
    except RecursionError:
        fault = "is not JSON of ours: brackets are nested too deep"
    except ValueError as error:  # a key twice, NaN, a number of thousands of digits
        fault = f"is not JSON of ours: {error}"
    if fault is not None:
        raise ValueError(f"{path} {fault}. {WHOLE_COPY}")
    kinds = (dict, list) if kind is None else (kind,)
    if not isinstance(content, kinds):
        wanted = " or ".join({dict: "an object", list: "a list"}[k] for k in kinds)
        raise ValueError(f"{path} holds {_called(content)}, and {wanted} is needed. {WHOLE_COPY}")
    return content


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        again = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {again!r} is there twice")
    return record


def _refused_constant(name: str) -> float:
    raise ValueError(f"it has {name}, and numbers must be finite")


def _called(content: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(content), f"the number {content!r}"[:60])


def number_in(
    record: Mapping[str, Any], name: str, path: str | Path, *, least: float, most: float = LARGEST, whole: bool = False
) -> Any:
    """`record[name]`, a finite number within these ends (both allowed); ValueError that names the file."""
    value = record.get(name)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        shown = repr(value)[:60]
        raise ValueError(f"{path}: {name} is {shown}; it must be {what} from {least:g} to {most:g}. {WHOLE_COPY}")
    return value


def require_files(
    folder: str | Path, names: Collection[str], what: str, advice: str = "", *, named: str | None = None
) -> None:
    """ValueError where a folder lacks some files, and so is not what it is taken for.

    Args:
        what: what it is then, such as "is no metric".
        advice: what to give in its place.
        named: the folder as the user named it; its path if None.
    """
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        name = str(folder) if named is None else named
        raise ValueError(f"{name!r} {what}: it lacks {', '.join(missing)}. {advice}".rstrip())


def read_tensors(path: str | Path, *, may_be_nan: Collection[str] = ()) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Args:
        may_be_nan: names of tensors in which NaN means something.

    Raises:
        ValueError: unreadable, cut, no safetensors, or a tensor with a value that is not finite or beyond 1e15.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        with open(path, "rb"):
            pass  # its own error says neither whether the file is there nor whether it may be read
        tensors = load_file(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: no readable safetensors ({_first_line(error)}). {WHOLE_COPY}") from None
    require_finite({name: tensor for name, tensor in tensors.items() if name not in may_be_nan}, path)
    return tensors


def require_finite(tensors: "Mapping[str, Tensor]", place: str | Path) -> None:
    """ValueError that names file and tensor where a value is NaN, infinite or beyond 1e15."""
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        values = tensor.detach()
        low, high = (float(end) for end in (values.float() if values.element_size() < 2 else values).aminmax())
        if not (low >= -LARGEST and high <= LARGEST):
            shown = next(end for end in (low, high) if not -LARGEST <= end <= LARGEST)
            raise ValueError(
                f"{place}: the tensor {name!r} holds {shown}, which no training leaves in a model that can be used. "
                f"{WHOLE_COPY}"
            )


def require_tensors(
    found: "Mapping[str, Tensor]", needed: "Mapping[str, Tensor]", place: str | Path, advice: str = WHOLE_COPY
) -> None:
    """ValueError where names or shapes of tensors are not those that are needed."""
    fits = {name for name in needed if name in found and needed[name].shape == found[name].shape}
    different = sorted({*needed, *found} - fits)
    if different:
        raise ValueError(
            f"{place} was made for another base or configuration: {len(different)} tensors are missing, unknown or of "
            f"another shape, first {different[0]!r}. {advice}"
        )


def read_table(path: str | Path) -> "pd.DataFrame":
    """A parquet or CSV table of a saved folder; ValueError where it is none."""
    import pandas as pd
    import pyarrow

    path = Path(path)
    try:
        with open(path, "rb"):
            pass
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        kind = path.suffix.removeprefix(".")
        raise ValueError(f"{path} is no readable {kind} table ({_first_line(error)}). {WHOLE_COPY}") from None
    except OSError as error:
        if error.strerror is None:  # an error of arrow, not of the disk
            raise ValueError(f"{path} is no readable table ({_first_line(error)}). {WHOLE_COPY}") from None
        raise _unreadable(path, error) from None


@contextlib.contextmanager
def reading(place: str | Path, what: str) -> Iterator[None]:
    """Turn whatever another library raises over a damaged folder into one sentence.

    Args:
        what: for the message: "the tokenizer", "the base model".
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file other libraries raise errors of any kind
        if is_on_purpose(error):
            raise
        raise ValueError(
            f"{what} in {str(place)!r} cannot be read ({type(error).__name__}: {_first_line(error)}). {WHOLE_COPY}"
        ) from error


def is_on_purpose(error: BaseException) -> bool:
    """Whether a `raise` of palign's own code made it: then it says all."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(__file__).parent in Path(last.filename).parents and (last.line or "").startswith("raise ")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:200]
