"""Cores, memory and GPUs of this machine, with their limits and the settings that override them."""

import os
from pathlib import Path

import pytest

from balsam.domain.packing import Node
from balsam.platform.node import gpus
from balsam.platform.node.base import NodeInfo, NodeOptions
from balsam.platform.node.gpus import GpuVendor
from balsam.platform.node.local import LocalNodes
from tests.platform.fake_commands import write_program

USABLE = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment without any GPU program."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin")}


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def only(found: list[NodeInfo]) -> NodeInfo:
    (node,) = found
    return node


def test_one_node_with_what_this_process_may_use(bare: dict[str, str], tmp_path: Path) -> None:
    node = only(LocalNodes(tmp_path).nodes(NodeOptions(), bare))
    assert (node.name, node.cpu_ids, node.gpu_ids) == (os.uname().nodename, USABLE, ())
    assert node.memory_bytes and node.memory_bytes > 2**20
    assert node.as_node() == Node(node.name, USABLE, ())


def test_affinity_mask_is_respected(bare: dict[str, str], tmp_path: Path) -> None:
    os.sched_setaffinity(0, {USABLE[-1]})
    try:
        assert only(LocalNodes(tmp_path).nodes(NodeOptions(), bare)).cpu_ids == (USABLE[-1],)
    finally:
        os.sched_setaffinity(0, USABLE)


@pytest.mark.skipif(len(USABLE) < 2, reason="needs two cores")
@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_quota_of_control_group_2(bare: dict[str, str], tmp_path: Path, quota: str, cores: int | None) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/user/job\n")
    put(tmp_path, "sys/fs/cgroup/user/job/cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/user/cpu.max", quota)
    put(tmp_path, "sys/fs/cgroup/user/memory.max", "1048576\n")
    node = only(LocalNodes(tmp_path).nodes(NodeOptions(), bare))
    assert len(node.cpu_ids) == (cores or len(USABLE))
    assert node.memory_bytes == 1048576


@pytest.mark.skipif(len(USABLE) < 2, reason="needs two cores")
def test_quota_of_control_group_1(bare: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "3:memory:/box\n1:cpu,cpuacct:/box\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "90000")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000")
    put(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2097152")
    node = only(LocalNodes(tmp_path).nodes(NodeOptions(), bare))
    assert node.cpu_ids == USABLE[:1]
    assert node.memory_bytes == 2097152
    assert "control group allows 0.9" in node.notes[0]


@pytest.mark.parametrize("wanted", [1, 2, 64])
def test_setting_says_how_many_cores(bare: dict[str, str], tmp_path: Path, wanted: int) -> None:
    node = only(LocalNodes(tmp_path).nodes(NodeOptions(cpus=wanted), bare))
    assert (len(node.cpu_ids), len(set(node.cpu_ids))) == (wanted, wanted)


def test_pretended_nodes_share_out_the_machine(bare: dict[str, str], tmp_path: Path) -> None:
    environ = {**bare, "BALSAM_NUM_NODES": "3", "BALSAM_SCHEDULER_ID": "17"}
    nodes = LocalNodes(tmp_path).nodes(NodeOptions(cpus=7, gpus=2), environ)
    assert [len(node.cpu_ids) for node in nodes] == [3, 2, 2]
    assert len({cpu for node in nodes for cpu in node.cpu_ids}) == 7
    assert [node.gpu_ids for node in nodes] == [("0",), ("1",), ()]
    assert len({node.name for node in nodes}) == 3
    assert LocalNodes().scheduler_id(environ) == "17"
    assert all(LocalNodes(tmp_path).nodes(NodeOptions(cpus=1), environ)[number].cpu_ids for number in range(3))


def test_wrong_number_of_nodes_is_named(bare: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="BALSAM_NUM_NODES='many'"):
        LocalNodes().nodes(NodeOptions(), {**bare, "BALSAM_NUM_NODES": "many"})


@pytest.mark.parametrize(
    ("program", "prints", "vendor", "ids"),
    [
        ("nvidia-smi", "0\n1\n3", GpuVendor.NVIDIA, ("0", "1", "3")),
        ("rocm-smi", "device,Device Name\ncard0,0x740f\ncard1,0x740f", GpuVendor.AMD, ("0", "1")),
        ("xpu-smi", "Device ID\n0\n1", GpuVendor.INTEL, ("0", "1")),
    ],
)
def test_gpus_are_listed_by_the_vendors_program(
    bare: dict[str, str], program: str, prints: str, vendor: GpuVendor, ids: tuple[str, ...]
) -> None:
    write_program(Path(bare["PATH"]), program, f"echo '{prints}'")
    found = gpus.find(None, bare)
    assert (found.vendor, found.ids, program in found.reason) == (vendor, ids, True)


@pytest.mark.parametrize("body", ["echo 'No devices were found'; exit 6", "echo 'Failed to initialize NVML'", "exit 1"])
def test_program_without_gpus_is_no_gpu(bare: dict[str, str], body: str) -> None:
    write_program(Path(bare["PATH"]), "nvidia-smi", body)
    assert gpus.find(None, bare).ids == ()


def test_what_the_batch_system_allows_counts_more_than_the_listing(bare: dict[str, str]) -> None:
    write_program(Path(bare["PATH"]), "nvidia-smi", "echo 0; echo 1; echo 2; echo 3")
    assert gpus.find(None, {**bare, "CUDA_VISIBLE_DEVICES": "2,GPU-8f3a"}).ids == ("2", "GPU-8f3a")
    for none in ("", "-1", "-1,0", "NoDevFiles"):
        assert gpus.find(None, {**bare, "CUDA_VISIBLE_DEVICES": none}).ids == ()
    assert gpus.find(None, {**bare, "CUDA_VISIBLE_DEVICES": "0,-1,1"}).ids == ("0",)
    assert gpus.find(None, {**bare, "ROCR_VISIBLE_DEVICES": "1"}).vendor is GpuVendor.AMD


def test_setting_counts_most(bare: dict[str, str]) -> None:
    given = {**bare, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert gpus.find(2, given).ids == ("0", "1")
    for none in ("", "-1", "NoDevFiles"):
        assert gpus.find(2, {**bare, "CUDA_VISIBLE_DEVICES": none}).ids == ("0", "1"), "where detection is wrong"
    assert gpus.find(["3"], given).ids == ("3",)
    assert (gpus.find(0, given).ids, gpus.find(0, given).vendor) == ((), None)
    write_program(Path(bare["PATH"]), "rocm-smi", "exit 0")
    assert gpus.find(1, bare).vendor is GpuVendor.AMD


def test_a_number_of_gpus_is_taken_from_those_that_the_batch_system_gave(bare: dict[str, str]) -> None:
    """The others of a node that is shared are somebody else's."""
    assert gpus.find(2, {**bare, "CUDA_VISIBLE_DEVICES": "2,3"}).ids == ("2", "3")
    assert gpus.find(1, {**bare, "ROCR_VISIBLE_DEVICES": "6,7"}) == gpus.Gpus(
        ("6",), GpuVendor.AMD, "1 GPUs by setting node.gpus: 1, of ROCR_VISIBLE_DEVICES=6,7"
    )
    fewer = gpus.find(4, {**bare, "CUDA_VISIBLE_DEVICES": "0,1"})
    assert (fewer.ids, fewer.reason) == (("0", "1"), "2 GPUs by setting node.gpus: 4, of CUDA_VISIBLE_DEVICES=0,1")
    assert gpus.find(2, {**bare, "ZE_AFFINITY_MASK": "0.0,0.1,1.0"}).ids == ("0.0", "0.1")


def test_job_is_told_its_gpus_in_its_vendors_words() -> None:
    shared = ["0", "0", "2"]
    assert gpus.environment(GpuVendor.NVIDIA, shared) == {
        "CUDA_VISIBLE_DEVICES": "0,2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert gpus.environment(GpuVendor.AMD, shared) == {"ROCR_VISIBLE_DEVICES": "0,2"}
    assert gpus.environment(GpuVendor.INTEL, shared) == {"ZE_AFFINITY_MASK": "0,2"}
    assert gpus.environment(GpuVendor.NVIDIA, []) == {}
    assert gpus.environment(None, ["0"]) == {}


# What Slurm sets when its gres.conf does not say whose GPUs they are.
SET_AT_ONCE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")
ALL_VENDORS = dict.fromkeys(SET_AT_ONCE, "4,5,6,7")


@pytest.mark.parametrize(
    ("device", "program", "vendor"),
    [
        ("dev/nvidiactl", "", GpuVendor.NVIDIA),
        ("dev/kfd", "", GpuVendor.AMD),
        ("dev/kfd", "nvidia-smi", GpuVendor.AMD),
        ("", "nvidia-smi", GpuVendor.NVIDIA),
        ("", "rocm-smi", GpuVendor.AMD),
        ("", "xpu-smi", GpuVendor.INTEL),
        ("", "", GpuVendor.NVIDIA),
    ],
)
@pytest.mark.parametrize("wanted", [None, 4])
def test_of_all_vendors_that_the_batch_system_names_the_one_who_is_here_counts(
    bare: dict[str, str], tmp_path: Path, device: str, program: str, vendor: GpuVendor, wanted: int | None
) -> None:
    if device:
        put(tmp_path, device, "")
    if program:
        write_program(Path(bare["PATH"]), program, "exit 0")
    found = gpus.find(wanted, {**bare, **ALL_VENDORS}, tmp_path)
    assert (found.ids, found.vendor) == (("4", "5", "6", "7"), vendor)


def test_a_vendor_whose_variable_names_no_gpu_is_not_the_one(bare: dict[str, str], tmp_path: Path) -> None:
    found = gpus.find(None, {**bare, "CUDA_VISIBLE_DEVICES": "NoDevFiles", "ROCR_VISIBLE_DEVICES": "1"}, tmp_path)
    assert (found.ids, found.vendor) == (("1",), GpuVendor.AMD)


@pytest.mark.parametrize(
    ("vendor", "given", "told"),
    [
        (GpuVendor.NVIDIA, ALL_VENDORS, dict.fromkeys(ALL_VENDORS, "5,7")),
        (GpuVendor.INTEL, ALL_VENDORS, dict.fromkeys(ALL_VENDORS, "5,7")),
        # HIP and OpenCL count only what ROCR_VISIBLE_DEVICES leaves them: with "5,7" in both they would see none.
        (
            GpuVendor.AMD,
            ALL_VENDORS,
            {
                "ROCR_VISIBLE_DEVICES": "5,7",
                "CUDA_VISIBLE_DEVICES": "0,1",
                "GPU_DEVICE_ORDINAL": "0,1",
                "ZE_AFFINITY_MASK": "5,7",
            },
        ),
        (
            GpuVendor.AMD,
            {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "0,1,2,3"},
            {"ROCR_VISIBLE_DEVICES": "5,7", "HIP_VISIBLE_DEVICES": "0,1"},
        ),
        (
            GpuVendor.NVIDIA,
            {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "ZE_AFFINITY_MASK": "0,1,2,3"},
            {"CUDA_VISIBLE_DEVICES": "5,7", "ZE_AFFINITY_MASK": "1,3"},
        ),
        # Of other GPUs than ours, or of some that the batch system does not know: nothing is said.
        (
            GpuVendor.NVIDIA,
            {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "ZE_AFFINITY_MASK": "0"},
            {"CUDA_VISIBLE_DEVICES": "5,7"},
        ),
        (
            GpuVendor.NVIDIA,
            {"CUDA_VISIBLE_DEVICES": "0,1", "ZE_AFFINITY_MASK": "0,1"},
            {"CUDA_VISIBLE_DEVICES": "5,7"},
        ),
        (GpuVendor.INTEL, {}, {"ZE_AFFINITY_MASK": "5,7"}),
    ],
)
def test_job_is_told_its_gpus_in_each_variable_that_the_batch_system_set(
    vendor: GpuVendor, given: dict[str, str], told: dict[str, str]
) -> None:
    made = gpus.environment(vendor, ["5", "5", "7"], {"HOME": "/h", **given})
    made.pop("CUDA_DEVICE_ORDER", None)
    assert made == told
