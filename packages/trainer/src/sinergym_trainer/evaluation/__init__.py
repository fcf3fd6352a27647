"""Episodes of a model or a baseline: beside a training, or by themselves (`sinergym-eval`).

episodes    one episode, decided by an agent, with its sums by month
process     the evaluation's process beside a training
evaluating  `sinergym-eval`: what to evaluate, its episodes, where results go
baselines   random actions and Sinergym's rules           report  rows, tables and files
"""
