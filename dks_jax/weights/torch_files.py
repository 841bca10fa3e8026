"""Reading and writing of PyTorch checkpoint files; nothing that a file contains is executed.

In this library torch and safetensors are imported only here, and inside functions, since they are optional.
"""

import io
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dks_jax.runtime.errors import InputError, first_line, printable
from dks_jax.runtime.extras import require_package
from dks_jax.runtime.files import atomic_write
from dks_jax.weights import inert

# File endings of the format of torch.save; the other format is .safetensors.
TORCH_ENDINGS = (".pth", ".pt", ".pt7", ".bin", ".ckpt", ".tar")


class Tensor(NamedTuple):
    """A tensor of a checkpoint whose values have not been checked yet.

    shape: shape of the tensor.
    dtype: name of its dtype in PyTorch, e.g. "float32".
    stored: the torch.Tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    stored: Any

    @property
    def plain(self) -> bool:
        """Whether it is a dense tensor of real numbers whose values are all in the file."""
        import torch

        tensor = self.stored
        return (
            tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
            and not tensor.is_complex()
            # A tensor whose strides repeat its values may be larger than the memory.
            and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
        )

    def numpy(self) -> np.ndarray:
        """The values as float32, or int64 if they are integers.

        The conversion from bfloat16 and float16 is exact; float64 is rounded.
        """
        import torch

        dtype = torch.float32 if self.stored.is_floating_point() else torch.int64
        return self.stored.detach().to(dtype).resolve_neg().contiguous().numpy()


def read(file: Path) -> dict[str, Any]:
    """Reads the dictionary in a file of torch.save, or in one that ends in .safetensors.

    Tensors come as `Tensor`, NumPy's numbers and arrays as such, and objects of other classes as `Inert`.

    Raises:
      InputError: torch or safetensors is not installed; or the file is absent or damaged, is not a dictionary
        or refers to code that no training script saves.
    """
    _require("torch")
    if file.suffix == ".safetensors":
        _require("safetensors")
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "is absent"
        raise InputError(f"A PyTorch checkpoint must be a file; {file} {found}.")
    if file.stat().st_size == 0:
        raise InputError(f"A PyTorch checkpoint must hold a state dict; {file} is empty.")
    # An unreadable file raises OSError here, because torch and safetensors raise different errors for it.
    with file.open("rb"):
        pass
    try:
        # Wrapping can fail on a damaged file too, e.g. where a dictionary contains itself.
        content = _wrap(_load(file), {})
    # The readers raise many types on damaged bytes.
    except Exception as error:
        raise InputError(
            f"{file} cannot be read as a PyTorch checkpoint of tensors ({_reason(error)}): give a file that "
            "holds a state dict, e.g. of torch.save(model.state_dict(), FILE), whole and unchanged."
        ) from error
    if isinstance(content, inert.Inert):
        raise InputError(
            f"{file} must hold a dictionary of tensors; it holds a whole object, e.g. of torch.save(model), "
            "whose code is not run: save its state dict, by torch.save(model.state_dict(), FILE)."
        )
    if not isinstance(content, dict):
        raise InputError(
            f"{file} must hold a dictionary of tensors; it holds a {type(content).__name__}: save the state "
            "dict of the model, by torch.save(model.state_dict(), FILE)."
        )
    return content


def require_ending(file: Path) -> None:
    """Raises InputError unless the name of a file ends as that of a format which `write` writes."""
    if file.suffix != ".safetensors" and file.suffix not in TORCH_ENDINGS:
        raise InputError(
            f"A PyTorch checkpoint must be named .safetensors, or for the format of torch.save "
            f"{', '.join(TORCH_ENDINGS[:-1])} or {TORCH_ENDINGS[-1]}; got {file.name}."
        )


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a dictionary, with NumPy arrays as tensors; `file` appears once it is complete.

    Args:
      file: path of the file. If it ends in .safetensors, the content must be a flat dictionary of arrays; the
        endings of TORCH_ENDINGS give the format of torch.save.
      content: dictionary of arrays, plain values and further dictionaries.

    Raises:
      InputError: torch or safetensors is not installed, or the file has another ending.
    """
    require_ending(file)
    _require("torch")
    import torch

    if file.suffix == ".safetensors":
        _require("safetensors")
        from safetensors.torch import save

        encoded = save(_tensors(content))
    else:
        buffer = io.BytesIO()
        torch.save(_tensors(content), buffer)
        encoded = buffer.getbuffer()
    # Python writes the bytes, because torch reports a full disk as a RuntimeError.
    with atomic_write(file) as partial:
        partial.write_bytes(encoded)


def _load(file: Path) -> Any:
    import torch

    # torch warns of old formats although it reads them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        names: Iterable[str] = inert.USUAL
        if zipfile.is_zipfile(file):
            # torch writes checksums but does not verify them.
            with zipfile.ZipFile(file) as archive:
                if changed := archive.testzip():
                    raise ValueError(f"{changed} has changed since it was written")
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        with torch.serialization.safe_globals(inert.stand_ins(names)):
            return torch.load(file, map_location="cpu", weights_only=True)


def _wrap(value: Any, wrapped: dict[int, Any]) -> Any:
    """Wraps the tensors and arrays in nested dictionaries; `wrapped` holds finished ones, which may recur."""
    import torch

    if isinstance(value, torch.Tensor):
        return Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), value)
    if isinstance(value, dict):
        if id(value) not in wrapped:
            # A file can replace the method `items` of its dictionary by an attribute.
            wrapped[id(value)] = {key: _wrap(inner, wrapped) for key, inner in dict.items(value)}
        return wrapped[id(value)]
    return value.values if isinstance(value, inert.PickledArray) else value


def _tensors(value: Any) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        # JAX arrays are read-only, of which torch warns.
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    if isinstance(value, Mapping):
        return {key: _tensors(inner) for key, inner in value.items()}
    return value


def _require(package: str) -> None:
    require_package(package, "PyTorch checkpoints", "torch")


def _reason(error: Exception) -> str:
    # torch uses these words for a file that refers to code; its message continues with how to trust a file.
    if any(
        words in str(error) for words in ("GLOBAL", "call reduce", "Can only", "torchscript", "TorchScript")
    ):
        return "it refers to code, which is not run"
    said = first_line(error).partition(". ")[0]
    return f"it is damaged or of another format: {type(error).__name__}: {printable(said, 100)}"
