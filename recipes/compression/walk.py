"""A model run block by block over some sequences, forwards and backwards, with one block on the device at a time.

Sequences are embedded once. What a block is applied to is kept, for all sequences, where the model rests (the CPU, for
one that does not fit the device); a block is moved to the device, looked at, perhaps changed, and moved back, and what
it then puts out is what the next one is applied to. So a model is compressed whose weights are many times the memory
of the device. Sequences are whole: all of one length, without padding.

    for step in Walk(model, rows, where="model=mine").steps():
        for _ in step.run(read):        # read(name, inputs [B, T, in]) of each linear layer of this block
            ...
        ...                             # change the weights of step.block
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from recipes.compression.linears import Block, blocks_of
from recipes.core.errors import UserError
from recipes.core.losses.kernels import token_nll
from recipes.core.models.head import last_hidden_state, output_head
from recipes.core.runs.progress import progress

Read = Callable[[str, Tensor], None]  # (name of a linear layer in its block, its inputs [B, T, in])
ReadGradient = Callable[[str, Tensor, Tensor], None]  # (name, inputs [B, T, in], gradient of its outputs [B, T, out])


@dataclass(frozen=True)
class Ran:
    """A batch that went through a block.

    Attributes:
        rows: Numbers of its sequences.
        inputs: [B, T, d] what the block was applied to.
        outputs: [B, T, d]
    """

    rows: range
    inputs: Tensor
    outputs: Tensor


class Step:
    """A block on the device, and what it is applied to.

    Args:
        block: The block.
        hidden: [B, T, d] of each batch, where the model rests.
        calls: What the block is called with besides, for each batch.
        device: Where it is.
    """

    def __init__(self, block: Block, hidden: list[Tensor], calls: list["_Call"], device: torch.device) -> None:
        self.block, self.hidden, self.device = block, hidden, device
        self._calls = calls

    def run(self, read: Read | None = None, names: Sequence[str] | None = None) -> Iterator[Ran]:
        """Run the block as it is now over all sequences, batch by batch; nothing has a gradient.

        Args:
            read: Called with the inputs of linear layers, in the order in which they run.
            names: Of which; None: of all.

        Raises:
            UserError: inputs or outputs are not finite; the layer is named.
        """
        start = 0
        for hidden, call in zip(self.hidden, self._calls, strict=True):
            with torch.no_grad(), self._hooks(read, names):
                inputs = hidden.to(self.device)
                outputs = call.to(self.device)(self.block.module, inputs)
            check_finite(outputs, self.block.name)
            yield Ran(range(start, start + len(hidden)), inputs, outputs)
            start += len(hidden)

    def run_until(self, read: Callable[[str, Tensor], bool]) -> Iterator[range]:
        """Run the block batch by batch, each no further than it takes.

        Args:
            read: Called with name and inputs of each linear layer, in the order in which they run; says whether that is
                all of this batch.

        Yields:
            Numbers of the batch's sequences.

        Raises:
            UserError: what a layer puts out on the way is not finite.
        """

        def check(name: str, inputs: Tensor) -> None:
            if read(name, inputs):
                raise _Enough

        start = 0
        for hidden, call in zip(self.hidden, self._calls, strict=True):
            with torch.no_grad(), self._hooks(check, None), suppress(_Enough):
                call.to(self.device)(self.block.module, hidden.to(self.device))
            yield range(start, start + len(hidden))
            start += len(hidden)

    def groups(self) -> list[tuple[str, ...]]:
        """Names of the linear layers in the order in which they run; those with the same input in one group."""
        groups: list[tuple[Tensor, list[str]]] = []

        def read(name: str, inputs: Tensor) -> None:
            same = next((names for tensor, names in groups if tensor is inputs), None)
            if same is None:
                groups.append((inputs, [name]))
            else:
                same.append(name)

        with torch.no_grad(), self._hooks(read, None):
            self._calls[0].to(self.device)(self.block.module, self.hidden[0][:1].to(self.device))
        return [tuple(names) for _, names in groups]

    @contextmanager
    def _hooks(self, read: Read | None, names: Sequence[str] | None) -> Iterator[None]:
        wanted = self.block.linears if names is None else names

        def hook(name: str, _: Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            # What linear layers put out is looked at, as fused attention on a CPU makes numbers of NaN.
            check_finite(outputs, self.block.linears[name].name)
            if read is not None and name in wanted:
                read(name, inputs[0])

        with ExitStack() as stack:
            for name, linear in self.block.linears.items():
                stack.callback(linear.module.register_forward_hook(partial(hook, name)).remove)
            yield


class BackwardStep:
    """A block on the device, what it is applied to, and the gradient of what it puts out.

    Args:
        block: The block.
        hidden: [B, T, d] of each batch.
        calls: What the block is called with besides, for each batch.
        gradients: [B, T, d] of the loss with respect to its outputs; replaced by those of its inputs.
        device: Where it is.
    """

    def __init__(
        self,
        block: Block,
        hidden: list[Tensor],
        calls: list["_Call"],
        gradients: list[Tensor],
        device: torch.device,
    ) -> None:
        self.block, self.device = block, device
        self._hidden, self._calls, self._gradients = hidden, calls, gradients

    def run(self, read: ReadGradient) -> None:
        """Run the block forwards and backwards, batch by batch; the gradient of no weight is computed.

        Args:
            read: Called with inputs of linear layers and the gradient of their outputs, the last layer first. Each
                sequence has its own loss, so row b of both is all that the weights' gradient of sequence b is made of:
                the sum over t of gradient[b, t] inputs[b, t]^T.
        """
        for number, (hidden, call) in enumerate(zip(self._hidden, self._calls, strict=True)):
            inputs = hidden.to(self.device).detach().requires_grad_()
            with torch.enable_grad(), ExitStack() as stack:
                for name, linear in self.block.linears.items():
                    hook = linear.module.register_forward_hook(partial(_watch_gradient, name, read))
                    stack.callback(hook.remove)
                outputs = call.to(self.device)(self.block.module, inputs)
            outputs.backward(self._gradients[number].to(self.device))
            assert inputs.grad is not None
            check_finite(inputs.grad, f"{self.block.name} (gradient)")
            self._gradients[number] = inputs.grad.to(hidden.device)


class Walk:
    """A model and the sequences that go through it.

    Args:
        model: A Llama-, GPT-2- or BERT-type model in evaluation mode, frozen, where it rests.
        rows: int64 [N, T] token ids.
        where: Key and value that named the model, for messages.
        batch: Sequences of a forward.
        device: Where blocks are computed; None: where the model rests.

    Raises:
        UserError: see `blocks_of`.
    """

    def __init__(
        self, model: Any, rows: Tensor, where: str, *, batch: int = 8, device: torch.device | str | None = None
    ) -> None:
        self.model, self.blocks = model, blocks_of(model, where)
        self.rest = next(model.parameters()).device
        self.device = self.rest if device is None else torch.device(device)
        self._batches = list(rows.to(self.rest).split(batch))

    def steps(self, what: str = "blocks") -> Iterator[Step]:
        """The blocks in order. A block may be changed until the next one is asked for.

        Args:
            what: What is being done, for people.

        Raises:
            UserError: what a block puts out is not finite.
        """
        hidden, calls = self._embed()
        with progress(what, len(self.blocks)) as show:
            for block in self.blocks:
                with _moved(block.module, self.device, self.rest):
                    step = Step(block, hidden, calls[block.number], self.device)
                    yield step
                    if block is not self.blocks[-1]:
                        hidden = [ran.outputs.to(self.rest) for ran in step.run()]
                show(block.number + 1)

    def nlls(self, what: str = "held-out text") -> np.ndarray:
        """float32 [N, T - 1] NLL in nats of the tokens of each sequence but the first, of a causal language model."""
        hidden: list[Tensor] = []
        for step in self.steps(what):
            if step.block is self.blocks[-1]:
                hidden = [ran.outputs.to(self.rest) for ran in step.run()]
        with torch.no_grad():
            parts = [self._token_nlls(ids, states) for ids, states in zip(self._batches, hidden, strict=True)]
        values: np.ndarray = torch.cat(parts).float().cpu().numpy()
        return values

    def backward(self, what: str = "gradients") -> Iterator[BackwardStep]:
        """The blocks of a causal language model from the last to the first; each must be run before the next.

        The loss of a sequence is the mean NLL in nats of its tokens but the first. What all blocks are applied to is
        kept, [blocks, N, T, d] in the dtype of the model, where the model rests.
        """
        hidden, calls = self._embed()
        applied_to = []
        for block in self.blocks:
            applied_to.append(hidden)
            with _moved(block.module, self.device, self.rest):
                hidden = [
                    ran.outputs.to(self.rest) for ran in Step(block, hidden, calls[block.number], self.device).run()
                ]
        gradients = [self._loss_gradient(ids, states) for ids, states in zip(self._batches, hidden, strict=True)]
        with progress(what, len(self.blocks)) as show:
            for block in reversed(self.blocks):
                with _moved(block.module, self.device, self.rest):
                    yield BackwardStep(block, applied_to.pop(), calls[block.number], gradients, self.device)
                show(len(self.blocks) - block.number)

    @torch.no_grad()
    def _embed(self) -> tuple[list[Tensor], list[list["_Call"]]]:
        """What the first block is applied to in each batch, and what each block is called with besides."""
        hidden: list[Tensor] = []
        calls: list[list[_Call]] = [[] for _ in self.blocks]
        for ids in self._batches:

            def note(number: int, states: Tensor, *args: Any, **options: Any) -> Tensor:
                if not number:
                    hidden.append(states)
                calls[number].append(_Call(args, options))
                if number == len(self.blocks) - 1:
                    raise _LastBlock
                return states

            with self._in_place_of_blocks(note), suppress(_LastBlock):
                self.model(input_ids=ids, use_cache=False)
        return hidden, calls

    def _loss_gradient(self, ids: Tensor, states: Tensor) -> Tensor:
        """[B, T, d] gradient of the sum of the sequences' losses with respect to what the last block puts out."""
        states = states.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._token_nlls(ids, states).mean(1).sum(), states)
        return gradient

    def _token_nlls(self, ids: Tensor, states: Tensor) -> Tensor:
        """[B, T - 1] NLL of tokens, of what the last block puts out."""
        with self._in_place_of_blocks(lambda *_, **__: states):
            final = last_hidden_state(self.model, input_ids=ids)[:, :-1]
        nll = token_nll(final.reshape(-1, final.shape[-1]), output_head(self.model), ids[:, 1:].reshape(-1))
        return nll.view(len(ids), -1)

    @contextmanager
    def _in_place_of_blocks(self, stand_in: Callable[..., Tensor]) -> Iterator[None]:
        """Inside, each block is stand_in(number, hidden states, ...) instead."""
        for block in self.blocks:
            block.module.forward = partial(stand_in, block.number)
        try:
            yield
        finally:
            for block in self.blocks:
                del block.module.forward


def check_finite(values: Tensor, layer: str) -> None:
    """Refuse NaN and infinity. Raises UserError that names the layer."""
    if not values.is_meta and not bool(values.isfinite().all()):
        raise UserError(
            "activations are not finite",
            where=layer,
            hint="the model is broken from here on: check its weights, or run in float32",
        )


@dataclass(frozen=True)
class _Call:
    """What a block is called with besides hidden states."""

    args: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, module: Any, hidden: Tensor) -> Tensor:
        outputs = module(hidden, *self.args, **self.options)
        return outputs if isinstance(outputs, Tensor) else outputs[0]

    def to(self, device: torch.device) -> "_Call":
        args = tuple(_on(value, device) for value in self.args)
        return _Call(args, {name: _on(value, device) for name, value in self.options.items()})


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(_on(each, device) for each in value) if isinstance(value, tuple | list) else value


def _watch_gradient(name: str, read: ReadGradient, _: Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
    x = inputs[0].detach()
    outputs.register_hook(lambda gradient: read(name, x, gradient))


@contextmanager
def _moved(module: Module, device: torch.device, back: torch.device) -> Iterator[None]:
    if device == back:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(back)


class _LastBlock(Exception):
    """All that blocks are called with is known."""


class _Enough(Exception):
    """All that was asked of a block is known."""
