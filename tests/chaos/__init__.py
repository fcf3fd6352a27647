"""Random schedules of mishaps, and what has to hold after each (`make chaos`).

zygote      real runners by the hundred: forked from a process that has imported everything
schedules   what happens when: hypothesis draws it
world       a local cloud, launchers that can be killed, and the mishaps as calls
laws        what must be true in the end, from the bucket's and the cloud's own records
"""
