"""What the control groups of this process allow: CPU time and memory. Both versions, also mixed, also in containers."""

from __future__ import annotations

from accel.core.probe import properties, read_int, read_text


def _folders(root: str) -> list[tuple[int, str]]:
    """(version, folder) of every cgroup that limits this process, up to the mount point of its hierarchy."""
    own: dict[str, str] = {}
    for line in read_text(f"{root}/proc/self/cgroup").splitlines():
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
    folders = []
    for line in read_text(f"{root}/proc/self/mountinfo").splitlines():
        fields, _, tail = line.partition(" - ")
        kind, *options = tail.split() or [""]
        if kind not in ("cgroup", "cgroup2") or len(fields.split()) < 5:
            continue
        inside, mount = fields.split()[3:5]
        if kind == "cgroup2":
            version, path = 2, own.get("", "/")
        else:
            used = [c for c in ("memory", "cpu") if options and c in options[-1].split(",")]
            if not used:
                continue
            version, path = 1, own.get(used[0], "/")
        # what is mounted may be a part of the hierarchy: a container that sees its own cgroup as the root
        prefix = inside.rstrip("/")
        below = path[len(prefix) :] if path == prefix or path.startswith(f"{prefix}/") else ""
        parts = [p for p in below.split("/") if p and p != ".."]
        folders += [(version, "/".join([root + mount, *parts[:n]])) for n in range(len(parts), -1, -1)]
    return folders


def quota(root: str = "") -> float | None:
    """CPUs' worth of time that the cgroups allow (1.5 is one and a half), or None for no limit.

    Source: `cpu.max` of version 2; `cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1.
    """
    limits = []
    for version, folder in _folders(root):
        if version == 2:
            amount, _, period = read_text(f"{folder}/cpu.max", 64).partition(" ")
        else:
            amount = read_text(f"{folder}/cpu.cfs_quota_us", 64)
            period = read_text(f"{folder}/cpu.cfs_period_us", 64)
        if amount.isdigit() and period.isdigit() and int(amount) and int(period):
            limits.append(int(amount) / int(period))
    return min(limits, default=None)


def memory_bounds(root: str = "") -> list[tuple[int, int]]:
    """(bytes allowed, bytes of them still free) of every cgroup above this process that has a memory limit.

    Inactive file pages count as free, since the kernel takes them back before it refuses memory.
    """
    bounds = []
    for version, folder in _folders(root):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        allowed = [v for v in (read_int(f"{folder}/{name}") for name in names) if v is not None and v > 0]
        if not allowed:
            continue
        used = read_int(f"{folder}/{'memory.current' if version == 2 else 'memory.usage_in_bytes'}") or 0
        stat = properties(read_text(f"{folder}/memory.stat"))
        idle = stat.get("inactive_file" if version == 2 else "total_inactive_file", "0")
        left = min(allowed) - used + (int(idle) if idle.isdigit() else 0)
        bounds.append((min(allowed), max(0, min(left, min(allowed)))))
    return bounds
