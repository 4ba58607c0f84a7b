"""A `dpscale` process that is killed at a stated upload: python kill_at_upload.py PATTERN COUNT ...

SIGKILL comes before the COUNT-th request that writes an object whose name matches PATTERN. Leases
are short, so that the next process need not wait half a minute. The rest is dpscale's.
"""

import os
import re
import signal
import sys
from typing import Any

from gcsfs.core import GCSFileSystem


def kill_at(pattern: str, count: int) -> None:
    left = count
    request = GCSFileSystem._request

    async def counted(self: Any, method: str, path: str, *args: Any, **options: Any) -> Any:
        nonlocal left
        if method == "POST" and re.search(
            pattern, bytes(options.get("data") or b"")[:500].decode(errors="replace")
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return await request(self, method, path, *args, **options)

    GCSFileSystem._request = counted


if __name__ == "__main__":
    from dpscale.buckets import lease
    from dpscale.cli.main import main

    lease.RENEW_SECONDS, lease.LOST_SECONDS = 0.3, 1.5
    kill_at(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
