"""PyTorch in the benchmark: nn.LSTM, nn.GRU or nn.RNN, trained and sampled in its usual loops.

Neither JAX nor rnnlab's model is imported here; PyTorch itself only when a `Torch` is made.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rnnlab.bench.contenders.contender import (
    CLIP,
    LEARNING_RATE,
    TEMPERATURE,
    Case,
    Contender,
    draw_tokens,
)


class Torch(Contender):
    """torch.nn.

    compiled: sample through torch.compile. PyTorch leaves an nn.LSTM out of what it compiles
        unless `allow_rnn` is set; it is set here, so that the whole step is compiled.
    """

    def __init__(self, *, threads: int, compiled: bool):
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_float32_matmul_precision("highest")
        self.compiled, self.writer = compiled, None

    def setup(self, *, case: Case, weights: Any) -> None:
        """See `Contender`."""
        torch, nn = self.torch, self.torch.nn
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[case.cell]
        self.case, self.writer = case, None
        self.rnn = kind(case.vocabulary, case.hidden, num_layers=case.layers)
        self.readout = nn.Linear(case.hidden, case.vocabulary)
        named = {name: torch.from_numpy(array) for name, array in weights["layers"].items()}
        self.rnn.load_state_dict(named)
        own = {"weight": weights["readout"]["kernel"].T, "bias": weights["readout"]["bias"]}
        self.readout.load_state_dict({name: torch.tensor(a) for name, a in own.items()})
        self.eye = torch.eye(case.vocabulary)  # a row of it is faster than F.one_hot(...).float()
        self.inputs, self.targets = (torch.from_numpy(a).long() for a in draw_tokens(case))
        self.parameters = [*self.rnn.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)

    def _loss(self) -> tuple[Any, Any]:
        y, _ = self.rnn(self.eye[self.inputs])
        logits = self.readout(y)
        entropy = self.torch.nn.functional.cross_entropy
        return entropy(logits.flatten(0, 1), self.targets.flatten()), logits

    def step(self) -> None:
        """One train step."""
        self.optimizer.zero_grad()
        loss, _ = self._loss()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()

    def check(self) -> dict[str, Any]:
        """See `Contender`."""
        self.optimizer.zero_grad()
        loss, logits = self._loss()
        loss.backward()
        return {
            "logits": logits.detach().numpy(),
            "loss": np.float32(loss.item()),
            "grads": self._tree(lambda parameter: parameter.grad),
        }

    def trained(self) -> dict[str, Any]:
        """See `Contender`."""
        return {
            "weights": self._tree(lambda parameter: parameter.detach()),
            "moment": self._tree(lambda parameter: self.optimizer.state[parameter]["exp_avg"]),
        }

    def _tree(self, of: Callable[[Any], Any]) -> dict[str, Any]:
        def array(parameter: Any) -> np.ndarray:
            return of(parameter).numpy().copy()

        readout = {"kernel": array(self.readout.weight).T, "bias": array(self.readout.bias)}
        layers = {name: array(parameter) for name, parameter in self.rnn.named_parameters()}
        return {"layers": layers, "readout": readout}

    def product(self, size: int) -> Callable[[], None]:
        """See `Contender`."""
        a = self.torch.randn(size, size)

        def run() -> None:
            self.torch.mm(a, a)

        return run

    def text(self, *, length: int, count: int) -> np.ndarray:
        """See `Contender`: the usual Python loop, one character a turn."""
        torch = self.torch

        def advance(token: Any, state: Any) -> tuple[Any, Any]:
            y, state = self.rnn(self.eye[token], state)
            weights = torch.softmax(self.readout(y[0]) / TEMPERATURE, dim=-1)
            return torch.multinomial(weights, 1).T, state

        if self.writer is None:
            self.writer = advance
            if self.compiled:
                torch._dynamo.config.allow_rnn = True
                torch._dynamo.reset()  # or another batch is compiled for batches of any size
                self.writer = torch.compile(advance)
        with torch.inference_mode():
            zeros = torch.zeros(self.case.layers, count, self.case.hidden)
            state = (zeros, zeros.clone()) if self.case.cell == "lstm" else zeros
            token = torch.zeros(1, count, dtype=torch.long)
            found = []
            for _ in range(length):
                token, state = self.writer(token, state)
                found.append(token)
            return torch.cat(found).numpy()
