"""Describe the differences between two specifications."""

from collections.abc import Mapping
from typing import Any


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the differences between two specs, like `steps: 40 -> 80; adam: added; sgd: schedule: step -> cosine`."""
    plain = [k for k in new if k not in ("arms", "sources", "versions", "data")]
    changes = [f"{k}: {old.get(k)} -> {new[k]}" for k in plain if old.get(k) != new[k]]
    before, after = ({arm["name"]: arm for arm in spec["arms"]} for spec in (old, new))
    changes += [f"{name}: removed" for name in sorted(before.keys() - after.keys())]
    for name, arm in after.items():
        if name not in before:
            changes.append(f"{name}: added")
        else:
            was = before[name]
            changes += [f"{name}: {k}: {was.get(k)} -> {v}" for k, v in arm.items() if was.get(k) != v]
    return "; ".join([*changes, *_files(old, new), *_versions(old, new), *_data(old, new)])


def _files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the changed files (edited, no longer or newly imported) of objects that both specifications name."""
    before, after = old["sources"], new["sources"]
    common = before.keys() & after.keys()
    was, now = ({file: h for place in common for file, h in spec[place].items()} for spec in (before, after))
    found = [f"{file}: edited" for file in sorted(was.keys() & now.keys()) if was[file] != now[file]]
    found += [f"{file}: no longer imported" for file in sorted(was.keys() - now.keys())]
    return found + [f"{file}: newly imported" for file in sorted(now.keys() - was.keys())]


def _versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = old["versions"], new["versions"]
    return [f"{name}: {before.get(name)} -> {v}" for name, v in after.items() if before.get(name) != v]


def _data(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = old["data"], new["data"]
    changed = {(before[key], h) for key, h in after.items() if key in before and before[key] != h}
    return [f"data: hash {was} -> {now}" for was, now in sorted(changed)]
