"""What every benchmark notes beside its figures: the machine, how busy it was, and the versions."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def machine_facts(**more: Any) -> dict[str, Any]:
    """Processor, cores, load and date, with whatever else a benchmark depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_1min": round(os.getloadavg()[0], 2),
        **more,
    }
