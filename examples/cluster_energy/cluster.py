"""The program of cluster.c in Python and numpy, for machines without a C compiler; same input, output and numbers.

* python cluster.py --write-input FILE --atoms 13 --seed 1 --hop-size 0.4 --temperature 0.8 --hops 200
* python cluster.py INPUT OUTPUT
"""

import math
import sys
from typing import TextIO

import numpy as np

DEFAULTS = {"atoms": 13.0, "seed": 1.0, "hop-size": 0.4, "temperature": 0.8, "hops": 200.0}
MASK = (1 << 64) - 1


class SplitMix:
    """The generator of cluster.c, bit for bit."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def unit(self) -> float:
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) / 9007199254740992.0


class Cluster:
    """Energy, forces and relaxation of ``atoms`` Lennard-Jones atoms in reduced units."""

    def __init__(self, atoms: int) -> None:
        self.atoms = atoms
        self.evaluations = 0
        self.diagonal = np.diag(np.full(atoms, np.inf))

    def energy_and_forces(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        d = x[:, None, :] - x[None, :, :]
        inv2 = 1.0 / (np.einsum("ijk,ijk->ij", d, d) + self.diagonal)
        inv6 = inv2 * inv2 * inv2
        slope = 24.0 * inv6 * (2.0 * inv6 - 1.0) * inv2
        return float(2.0 * (inv6 * (inv6 - 1.0)).sum()), np.einsum("ij,ijk->ik", slope, d)

    def relax(self, x: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """FIRE minimisation from ``x``; see relax() in cluster.c."""
        dt, mix, downhill = 0.01, 0.1, 0
        v = np.zeros_like(x)
        energy, f = self.energy_and_forces(x)
        for _ in range(20000):
            if np.abs(f).max() < 1e-7:
                return x, energy, True
            if float(np.vdot(f, v)) > 0.0:
                ratio = math.sqrt(np.vdot(v, v) / np.vdot(f, f))
                v = (1.0 - mix) * v + mix * ratio * f
                downhill += 1
                if downhill > 5:
                    dt, mix = min(dt * 1.1, 0.05), mix * 0.99
            else:
                v = np.zeros_like(x)
                dt, mix, downhill = dt * 0.5, 0.1, 0
            v = v + dt * f
            step = dt * v
            top = np.abs(step).max()
            x = x + (0.1 / top if top > 0.1 else 1.0) * step
            energy, f = self.energy_and_forces(x)
        return x, energy, False


def random_start(atoms: int, rng: SplitMix) -> np.ndarray:
    radius = 0.7 * math.cbrt(atoms)
    points: list[list[float]] = []
    while len(points) < atoms:
        p = [2.0 * rng.unit() - 1.0 for _ in range(3)]
        if sum(c * c for c in p) <= 1.0:
            points.append([radius * c for c in p])
    return np.array(points)


def search(settings: dict[str, float], out: TextIO) -> bool:
    atoms, hop_size, temperature = int(settings["atoms"]), settings["hop-size"], settings["temperature"]
    rng, cluster = SplitMix(int(settings["seed"])), Cluster(atoms)
    current, e_current, converged = cluster.relax(random_start(atoms, rng))
    best, e_best, best_hop = current, e_current, 0
    out.write(f"# hop energy best\n0 {e_current:.9f} {e_best:.9f}\n")
    for hop in range(1, int(settings["hops"]) + 1):
        shift = np.array([2.0 * rng.unit() - 1.0 for _ in range(3 * atoms)]).reshape(atoms, 3)
        trial, e_trial, ok = cluster.relax(current + hop_size * shift)
        draw = rng.unit()
        if ok and (e_trial <= e_current or draw < math.exp((e_current - e_trial) / temperature)):
            current, e_current = trial, e_trial
        if ok and e_trial < e_best - 1e-9:
            best, e_best, best_hop, converged = trial, e_trial, hop, True
        out.write(f"{hop} {e_trial:.9f} {e_best:.9f}\n")
        out.flush()
    out.write(f"energy {e_best:.9f}\nbest_hop {best_hop}\nconverged {int(converged)}\n")
    out.write(f"evaluations {cluster.evaluations}\n# geometry\n")
    out.writelines("{:.9f} {:.9f} {:.9f}\n".format(*row) for row in best)
    return converged


def checked(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """The settings in ``pairs`` over the defaults; SystemExit names what is wrong."""
    settings = dict(DEFAULTS)
    for name, text in pairs:
        if name not in settings:
            raise SystemExit(f"cluster: not a setting: {name}")
        settings[name] = float(text)
    if not 2 <= settings["atoms"] <= 150:
        raise SystemExit("cluster: atoms must be 2 to 150")
    if min(settings["hop-size"], settings["temperature"]) <= 0 or settings["hops"] < 0:
        raise SystemExit("cluster: hop-size and temperature must be positive, hops not negative")
    return settings


def describe(settings: dict[str, float]) -> str:
    return "\n".join(f"{name} {value:.17g}" for name, value in settings.items()) + "\n"


def main(argv: list[str]) -> int:
    if len(argv) >= 2 and argv[0] == "--write-input":
        names = [word.removeprefix("--") for word in argv[2::2]]
        settings = checked(list(zip(names, argv[3::2], strict=True)))
        with open(argv[1], "w") as file:
            file.write(describe(settings))
        return 0
    if len(argv) != 2:
        raise SystemExit("usage: cluster.py INPUT OUTPUT | cluster.py --write-input FILE [--atoms N ...]")
    with open(argv[0]) as file:
        settings = checked([(name, text) for name, text in (line.split() for line in file if line.strip())])
    with open(argv[1], "w") as out:
        out.write(f"# Lennard-Jones cluster: {settings}\n")
        converged = search(settings, out)
    print(f"cluster of {settings['atoms']:.0f} atoms done, result in {argv[1]}")
    return 0 if converged else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
