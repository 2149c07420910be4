"""Other machines as folders: `/proc` and `/sys` of hardware that the tests do not run on."""

from __future__ import annotations

from pathlib import Path

EPYC_FLAGS = (
    "fpu vme de pse tsc msr pae cx8 apic sep mmx fxsr sse sse2 ht syscall nx lm pni pclmulqdq ssse3 fma cx16 sse4_1 "
    "sse4_2 movbe popcnt aes xsave avx f16c rdrand avx2 bmi2 avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_vnni"
)
SAPPHIRE_FLAGS = f"{EPYC_FLAGS} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8"
GRAVITON3 = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp sve i8mm svebf16 bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

"""
RASPBERRY = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Hardware\t: BCM2835
"""
RISCV = """processor\t: 0
hart\t\t: 0
isa\t\t: rv64imafdcv_zicbom_zicsr
mmu\t\t: sv39
uarch\t\t: sifive,x280

"""
APPLE_SYSCTL = """hw.ncpu: 8
hw.memsize: 17179869184
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.AdvSIMD: 1
machdep.cpu.brand_string: Apple M2
machdep.cpu.core_count: 8
"""
GIB = 1 << 30


def write(root: Path, path: str, text: str) -> Path:
    """A file under the root, with its folders."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def x86(
    root: Path, cpus: int, name: str = "AMD EPYC 9754", flags: str = EPYC_FLAGS, vendor: str = "AuthenticAMD"
) -> None:
    """`/proc/cpuinfo` of a machine with that many logical CPUs."""
    block = (
        "processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: 25\nmodel name\t: {name}\ncpu MHz\t\t: 2596.1\n"
        "flags\t\t: {flags}\nbugs\t\t: sysret_ss_attrs\n"
    )
    text = "\n".join(block.format(n=n, vendor=vendor, name=name, flags=flags) for n in range(cpus))
    write(root, "/proc/cpuinfo", text + "\n")


def topology(root: Path, cpus: int, threads_per_core: int) -> None:
    """Sibling lists as the kernel gives them: CPU n and n + cpus / 2 share a core where there are two threads."""
    cores = cpus // threads_per_core
    for cpu in range(cpus):
        siblings = ",".join(str(cpu % cores + k * cores) for k in range(threads_per_core))
        write(root, f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{siblings}\n")


def meminfo(root: Path, total: int, available: int) -> None:
    """`/proc/meminfo`, sizes in bytes."""
    text = f"MemTotal:       {total // 1024} kB\nMemFree:  1024 kB\nMemAvailable:   {available // 1024} kB\n"
    write(root, "/proc/meminfo", text)


def cgroup2(root: Path, own: str, inside: str = "/") -> None:
    """A cgroup v2 hierarchy mounted at `/sys/fs/cgroup`; `inside` is the part of it that is mounted."""
    write(root, "/proc/self/cgroup", f"0::{own}\n")
    line = f"31 23 0:27 {inside} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    write(root, "/proc/self/mountinfo", f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{line}")


def cgroup1(root: Path, own: str, inside: str = "/") -> None:
    """Cgroup v1 hierarchies for memory and for cpu with cpuacct, beside an unused v2 one."""
    lines = [f"4:memory:{own}", f"3:cpu,cpuacct:{own}", "1:name=systemd:/init.scope", "0::/"]
    write(root, "/proc/self/cgroup", "\n".join(lines) + "\n")
    mounts = [
        f"32 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
        f"35 31 0:32 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd",
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    ]
    write(root, "/proc/self/mountinfo", "\n".join(mounts) + "\n")


def nvidia_driver(root: Path, version: str = "580.65.06", cards: tuple[str, ...] = ("NVIDIA H100 80GB HBM3",)) -> None:
    """What the NVIDIA kernel driver shows under `/proc`."""
    write(
        root,
        "/proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}\nGCC version: 13\n",
    )
    for number, name in enumerate(cards):
        write(root, f"/proc/driver/nvidia/gpus/0000:{number:02x}:00.0/information", f"Model: \t\t {name}\nIRQ: 1\n")


def pci(root: Path, address: str, vendor: int, kind: int) -> None:
    """A PCI function; kind is its 24-bit class."""
    for name, value in (("vendor", vendor), ("device", 0x1234), ("class", kind)):
        write(root, f"/sys/bus/pci/devices/{address}/{name}", f"0x{value:04x}\n")


def amd_gpu(root: Path, node: int, gfx: int, bus: int, unique_id: int, vram: int, used: int, name: str = "") -> None:
    """One GPU as the KFD driver shows it, with its PCI folder."""
    base = f"/sys/class/kfd/kfd/topology/nodes/{node}"
    facts = {"cpu_cores_count": 0, "simd_count": 304 * 4, "simd_per_cu": 4, "gfx_target_version": gfx}
    facts |= {"vendor_id": 0x1002, "device_id": 29857, "location_id": bus << 8, "domain": 0, "unique_id": unique_id}
    write(root, f"{base}/properties", "".join(f"{key} {value}\n" for key, value in facts.items()))
    write(root, f"{base}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {vram}\nflags 0\n")
    card = f"/sys/bus/pci/devices/0000:{bus:02x}:00.0"
    pci(root, f"0000:{bus:02x}:00.0", 0x1002, 0x038000)
    write(root, f"{card}/mem_info_vram_total", f"{vram}\n")
    write(root, f"{card}/mem_info_vram_used", f"{used}\n")
    if name:
        write(root, f"{card}/product_name", f"{name}\n")


def amd_driver(root: Path) -> None:
    """The door of the KFD driver, its version, and the CPU's own node."""
    write(root, "/dev/kfd", "")
    write(root, "/sys/module/amdgpu/version", "6.12.12\n")
    write(
        root,
        "/sys/class/kfd/kfd/topology/nodes/0/properties",
        "cpu_cores_count 96\nsimd_count 0\ngfx_target_version 0\n",
    )
