"""Fill a PostgreSQL database with users, products, impressions and orders of the simulated world.

Each event of the simulated log is a slate of products that were shown: the one that the user chose was clicked, the
others were drawn by popularity. Clicks with a rating of 4 or 5 became orders.

    python examples/product_database.py postgresql://localhost/shop --users 5200

writes about 200,000 slates of 5 impressions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import polars as pl
import psycopg

from segue.core.types import Events
from segue.data.simulator import SimulatedWorld
from segue.data.simulator.settings import SimulatorSettings

TABLES = """
CREATE TABLE users (user_id text NOT NULL, age int, gender text, occupation text);
CREATE TABLE products (product_id text NOT NULL, title text, genres text[], year int, price float8);
CREATE TABLE impressions (
    user_id text NOT NULL, product_id text NOT NULL,
    shown_at timestamptz NOT NULL, position int NOT NULL, device text NOT NULL, clicked boolean NOT NULL
);
CREATE TABLE orders (
    user_id text NOT NULL, product_id text NOT NULL,
    ordered_at timestamptz NOT NULL, amount numeric(10, 2) NOT NULL
);
"""
KEYS = """
CREATE INDEX orders_of_users ON orders (user_id, ordered_at);
ALTER TABLE users ADD PRIMARY KEY (user_id);
ALTER TABLE products ADD PRIMARY KEY (product_id);
ALTER TABLE impressions ADD FOREIGN KEY (user_id) REFERENCES users, ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users, ADD FOREIGN KEY (product_id) REFERENCES products;
"""
"""Keys and an index, added when the tables are full: the server then checks all rows at once, not one by one."""

SHOWN = 5
"""Products of a slate."""


def products(world: SimulatedWorld, rng: np.random.Generator) -> pl.DataFrame:
    """Return the catalog with prices."""
    catalog = world.catalog.frame
    genres = "{" + catalog["genres"].list.eval('"' + pl.element() + '"').list.join(",") + "}"
    prices = np.round(rng.lognormal(2.5, 0.6, len(catalog)), 2)
    return catalog.select(product_id="id", title="title", genres=genres, year="year", price=pl.Series(prices))


def impressions(events: Events, first: int, popularity: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Return the slates of events, with codes of users and products."""
    count = events.size
    shown = rng.choice(len(popularity), (count, SHOWN), p=popularity)
    clicked = rng.integers(SHOWN, size=count)
    for position in range(SHOWN):  # no slate shows the chosen product twice
        other = shown[:, position]
        other[other == events.items] = (other[other == events.items] + 1) % len(popularity)
    shown[np.arange(count), clicked] = events.items
    devices = np.array(["phone", "tablet", "desktop"])[rng.integers(3, size=count)]
    return pl.DataFrame(
        {
            "user": np.repeat(events.rows + first, SHOWN),
            "product": shown.ravel(),
            "shown_at": np.repeat(events.times, SHOWN),
            "position": np.tile(np.arange(1, SHOWN + 1), count),
            "device": np.repeat(devices, SHOWN),
            "clicked": (np.arange(SHOWN) == clicked[:, None]).ravel(),
            "rating": np.repeat(events.values, SHOWN),
        }
    )


def copy(connection: psycopg.Connection, table: str, frame: pl.DataFrame) -> None:
    """Append rows to a table."""
    columns = ", ".join(frame.columns)
    with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT csv)") as out:
        out.write(frame.write_csv(include_header=False))


def fill(address: str, settings: SimulatorSettings) -> dict[str, int]:
    """Create and fill the tables; return their numbers of rows."""
    world = SimulatedWorld.build(settings)
    rng = np.random.default_rng(settings.seed)
    users, catalog = pl.concat(list(world.profiles())), products(world, rng)
    counts = np.ones(settings.items)
    for chunk in world.chunks():
        counts += np.bincount(chunk.events.items, minlength=settings.items)
    sizes = {"users": len(users), "products": len(catalog), "impressions": 0, "orders": 0}
    with psycopg.connect(address) as connection:  # one transaction: all tables, or none
        connection.execute(TABLES)
        copy(connection, "users", users.rename({"id": "user_id"}))
        copy(connection, "products", catalog)
        for rows in slates(world, counts / counts.sum(), rng):
            shown = rows.with_columns(
                user_id=users["id"].gather(rows["user"]),
                product_id=catalog["product_id"].gather(rows["product"]),
                price=catalog["price"].gather(rows["product"]),
                shown_at=pl.from_epoch("shown_at").dt.replace_time_zone("UTC"),
            )
            columns = ("user_id", "product_id", "shown_at", "position", "device", "clicked")
            copy(connection, "impressions", shown.select(columns))
            bought = shown.filter(pl.col("clicked") & (pl.col("rating") >= 4))
            ordered_at = pl.col("shown_at") + pl.duration(minutes=10)
            orders = bought.select("user_id", "product_id", ordered_at=ordered_at, amount="price")
            copy(connection, "orders", orders)
            sizes["impressions"] += len(shown)
            sizes["orders"] += len(orders)
        connection.execute(KEYS)
        connection.execute("ANALYZE users, products, impressions, orders")
    return sizes


def slates(world: SimulatedWorld, popularity: np.ndarray, rng: np.random.Generator) -> Iterator[pl.DataFrame]:
    """Yield the impressions of all users in chunks."""
    for chunk in world.chunks(rows=100_000):
        yield impressions(chunk.events, chunk.first, popularity, rng)


def main() -> None:
    """Read the arguments and fill the database."""
    parser = argparse.ArgumentParser(description="Fill a PostgreSQL database with a simulated shop.")
    parser.add_argument("address", help="such as postgresql://localhost/shop")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = SimulatorSettings(users=given.users, items=given.products, seed=given.seed)
    for table, rows in fill(given.address, settings).items():
        print(f"{table}: {rows:,} rows")


if __name__ == "__main__":
    main()
