"""The table and the picture of a finished ensemble; called by run_ensemble.py with libEnsemble's history H."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BOND = 1.4  # two atoms closer than this are drawn with a line between them


def ranked(H: np.ndarray) -> np.ndarray:
    """Lowest energy first; of equal ones, that which was found sooner."""
    return H[np.lexsort((H["best_hop"], H["energy"].round(5)))]


def table(H: np.ndarray, known: float | None) -> str:
    """One line for each simulation, best first."""
    lines = [" sim   job   hop size   temperature       energy   found at hop   run time"]
    for row in ranked(H):
        mark = " *" if known is not None and abs(row["energy"] - known) < 1e-4 else ""
        lines.append(
            f"{row['sim_id']:4d} {int(row['job_id']):5d} {row['x'][0]:10.3f} {row['x'][1]:13.3f} {row['energy']:12.6f}"
            f" {int(row['best_hop']):14d} {row['runtime_sec']:8.2f} s{mark}"
        )
    if known is not None:
        lines.append(f"   * the lowest energy known for this cluster: {known:.6f}")
    return "\n".join(lines)


def draw(H: np.ndarray, known: float | None, path: Path) -> None:
    """Three panels: the searches, the settings that were tried, the best cluster."""
    figure = plt.figure(figsize=(15, 4.8), layout="constrained")
    curves, settings = figure.add_subplot(1, 3, 1), figure.add_subplot(1, 3, 2)
    cluster = figure.add_subplot(1, 3, 3, projection="3d")
    best = ranked(H)[0]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(H)))
    for rank, row in enumerate(H[np.argsort(H["mean_energy"])]):
        curves.plot(row["best_by_hop"], color=colours[rank], lw=1)
    if known is not None:
        curves.axhline(known, color="firebrick", ls="--", lw=1, label="lowest energy known")
        curves.legend()
    curves.set(xlabel="hop", ylabel="lowest energy so far (ε)", title=f"{len(H)} searches")
    points = settings.scatter(*H["x"].T, c=H["mean_energy"], cmap="viridis", s=70, edgecolor="k")
    settings.scatter(*best["x"], marker="o", s=200, facecolor="none", edgecolor="firebrick", lw=2)
    figure.colorbar(points, ax=settings, label="energy, mean over the hops (ε)")
    settings.set(xlabel="hop size (σ)", ylabel="temperature (ε)", title="settings tried")
    draw_cluster(cluster, best["geometry"])
    cluster.set_title(f"best cluster: {best['energy']:.6f} ε")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_cluster(axes: plt.Axes, atoms: np.ndarray) -> None:
    """Atoms as balls, near neighbours joined."""
    atoms = atoms - atoms.mean(axis=0)
    for i, one in enumerate(atoms):
        for other in atoms[i + 1 :]:
            if np.linalg.norm(one - other) < BOND:
                axes.plot(*np.stack([one, other]).T, color="0.6", lw=0.8)
    depth = np.linalg.norm(atoms, axis=1)
    axes.scatter(*atoms.T, s=220, c=depth, cmap="plasma", edgecolor="k", alpha=1)
    axes.set_axis_off()
    axes.set_box_aspect((1, 1, 1))
