"""LSTM layers to compare with: one in NumPy, straight from the equations, and torch's own.

`layers` holds for each layer the Flax parameters of its cells: the forward one, and the backward one if
there is one. Sequences are [M, S, D] and come back as [M, S, hidden], both directions side by side.
"""

import numpy as np
import pytest

_GATES = "ifgo"  # in torch's order


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _run(cell, x_MSD):
    h = c = np.zeros((len(x_MSD), len(cell["hi"]["bias"])))
    states = []
    for step in range(x_MSD.shape[1]):
        i, f, g, o = (
            x_MSD[:, step] @ cell[f"i{gate}"]["kernel"]
            + h @ cell[f"h{gate}"]["kernel"]
            + cell[f"h{gate}"]["bias"]
            for gate in _GATES
        )
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def by_numpy(layers, x_MSD):
    for cells in layers:
        ways = [
            _run(cell, x_MSD[:, ::way])[:, ::way] for cell, way in zip(cells, (1, -1), strict=False)
        ]
        x_MSD = np.concatenate(ways, axis=-1)
    return x_MSD


def by_torch(layers, x_MSD):
    torch = pytest.importorskip("torch")
    state = {}
    for number, cells in enumerate(layers):
        for cell, way in zip(cells, ("", "_reverse"), strict=False):
            for kind in "ih":
                kernels = [cell[kind + gate]["kernel"] for gate in _GATES]
                state[f"weight_{kind}h_l{number}{way}"] = np.concatenate(kernels, axis=1).T
            bias = np.concatenate([cell[f"h{gate}"]["bias"] for gate in _GATES])
            state |= {f"bias_hh_l{number}{way}": bias, f"bias_ih_l{number}{way}": 0 * bias}
    hidden, both = len(layers[0][0]["hi"]["bias"]), len(layers[0]) == 2
    lstm = torch.nn.LSTM(x_MSD.shape[-1], hidden, len(layers), batch_first=True, bidirectional=both)
    lstm.load_state_dict({name: torch.tensor(np.array(x)) for name, x in state.items()})
    with torch.no_grad():
        return lstm(torch.tensor(np.asarray(x_MSD, np.float32)))[0].numpy()
