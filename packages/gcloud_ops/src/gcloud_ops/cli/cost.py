"""`gcloud-ops prices`: what machine types cost, by the table that plans are reckoned with."""
# ruff: noqa: D417 (the docstrings are the help, and `session` is not an argument that users give)

from gcloud_ops.cli.app import GivenSession

__all__ = ["prices"]


def prices(
    *machine_types: str,
    disk_gb: int = 0,
    disk_type: str = "",
    address: bool = False,
    session: GivenSession,
) -> int:
    """Show what machine types cost an hour in the zone's region, on demand and as Spot VMs.

    List prices in US dollars, an estimate: docs/costs.md says where they are from, and how to put
    others in their place. What isn't in the table has no price.

    Args:
        machine_types: Such as n2-highcpu-8; none: one or two of each kind that the table has.
        disk_gb: With a disk of this size.
        disk_type: Of this type, such as pd-ssd; none: pd-standard.
        address: With an external address.
    """
    from gcloud_ops import prices
    from gcloud_ops.cli.output import Columns, ExitCode, dollars, say
    from gcloud_ops.model import region_of

    table, region = prices.load(), region_of(session.settings.zone)
    usual = (f"{kind}-{shape}-8" for kind in table.families for shape in ("highcpu", "standard"))
    wanted = machine_types or [one for one in usual if prices.shape(one)]
    rows = [
        prices.Quote.of(
            table, one, region=region, disk_gb=disk_gb, disk_type=disk_type, address=address
        )
        for one in wanted
    ]
    columns: Columns[prices.Quote] = Columns(
        ("MACHINE TYPE", "VCPUS", "GB", "AN HOUR", "SPOT"),
        lambda it: (
            it.machine_type,
            f"{it.cpus:g}" if it.cpus else "",
            f"{it.memory_gb:g}" if it.memory_gb else "",
            dollars(it.hourly),
            dollars(it.hourly_spot),
        ),
    )
    session.emit(rows, columns)
    say(f"prices of {table.date} for {region}, an estimate; Spot changes up to once a month")
    unknown = [one.unknown for one in rows if one.unknown]
    for one in dict.fromkeys(unknown):
        say(f"no price is known for {one}: prices.toml can give it one (docs/costs.md)")
    return ExitCode.NOT_FOUND if unknown else ExitCode.DONE
