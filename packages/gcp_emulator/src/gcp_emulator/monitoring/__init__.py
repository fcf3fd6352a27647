"""Cloud Monitoring v3: metrics, alert policies, notification channels, what comes of them."""

import os

# Containers are forked from this process and become other programs at once: gRPC's handlers for
# forks, which stop and start its threads each time, would be in the way. Read when gRPC is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
