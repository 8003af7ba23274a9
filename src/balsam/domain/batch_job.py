"""BatchJob: what people are told of it, the same by the service, the agent and the command."""

from collections.abc import Mapping


def status_reason(status_info: Mapping[str, object]) -> str:
    """What people are told of a BatchJob: what went wrong, the scheduler's own words, and the last ones of its script,
    as the Site's agent put them.

    >>> status_reason({"error": "NODE_FAIL", "scheduler": "NODE_FAIL", "exit_code": 1})
    'NODE_FAIL'
    >>> status_reason({"error": "FAILED: exit code 3", "output_tail": "loading\\nno such module"})
    'FAILED: exit code 3; its output ends with: loading | no such module'
    """
    said = [str(status_info[key]).strip() for key in ("error", "scheduler") if status_info.get(key)]
    if tail := str(status_info.get("output_tail") or "").strip():
        said.append(f"its output ends with: {' | '.join(tail.splitlines())}")
    return "; ".join(dict.fromkeys(said))
