"""Limits of control groups are found in both versions, in ours and in those around it."""

from pathlib import Path

from logstore.node.usage.control_group import ControlGroups


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")
    return folder


def proc(tmp_path: Path, cgroup: str, *mounts: str) -> ControlGroups:
    lines = [f"{n} 1 0:{n} {mount}" for n, mount in enumerate(mounts)]
    return ControlGroups(written(tmp_path / "proc", cgroup=cgroup, mountinfo="\n".join(lines)))


def test_version_1_with_the_use_in_a_hierarchy_of_its_own(tmp_path: Path) -> None:
    written(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    written(tmp_path / "cpu" / "a", cpu__cfs_quota_us="30000", cpu__cfs_period_us="100000",
            cpu__stat="nr_throttled 3\nthrottled_time 2000000000")  # fmt: skip
    written(tmp_path / "acct" / "a", cpuacct__usage="7500000000")
    groups = proc(
        tmp_path, "2:cpuacct:/a\n1:cpu:/a",
        f"/ {tmp_path}/cpu rw - cgroup cgroup rw,cpu",
        f"/ {tmp_path}/acct rw - cgroup cgroup rw,cpuacct",
    )  # fmt: skip
    (found,) = groups.cpu()
    assert (found.cores, found.used_s, found.throttled_s) == (0.3, 7.5, 2.0)


def test_version_2_the_group_around_ours_binds_too(tmp_path: Path) -> None:
    root = written(tmp_path / "unified")
    outer = written(root / "pod", cpu__max="200000 100000", memory__max="1000",
                    memory__current="900", memory__stat="anon 5\ninactive_file 300",
                    cpu__stat="usage_usec 5000000\nthrottled_usec 0")  # fmt: skip
    written(outer / "app", cpu__max="max 100000", memory__max="max", memory__current="400")
    groups = proc(tmp_path, "0::/pod/app", f"/ {root} rw - cgroup2 cgroup2 rw")
    (found,) = groups.cpu()
    assert (found.cores, found.used_s) == (2.0, 5.0)
    assert groups.memory_free_bytes() == 400
    (outer / "cpu.max").write_text("50000 100000\n")  # changed while it runs
    assert groups.cpu()[0].cores == 0.5


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = written(tmp_path / "cpu", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000",
                   cpuacct__usage="1000000000", cpu__stat="throttled_time 0")  # fmt: skip
    mount = f"/docker/x {root} rw - cgroup cgroup rw,cpu,cpuacct"
    groups = proc(tmp_path, "1:cpu,cpuacct:/docker/x", mount)
    (found,) = groups.cpu()
    assert (found.cores, found.used_s) == (1.5, 1.0)


def test_no_groups_no_limits(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path / "nothing")
    assert groups.cpu() == []
    assert groups.memory_free_bytes() is None
