"""Diagnosis: what is wrong with the servers, the settings, the workers and the work of a namespace.

    from polos_redis.diagnosis import diagnose

    async with PolosClient() as client:
        diagnosis = await diagnose(client)

Each check has a file and yields findings (`finding.py`); `doctor.py` runs them all.
"""

from polos_redis.diagnosis.doctor import Diagnosis, diagnose
from polos_redis.diagnosis.finding import Finding, Level

__all__ = ["Diagnosis", "Finding", "Level", "diagnose"]
