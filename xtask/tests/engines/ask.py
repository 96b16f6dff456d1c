"""Asks SQL engines about an export, and prints the answers as JSON, an array for each question.

ask.py sqlite DATABASE QUESTIONS
ask.py duckdb FOLDER QUESTIONS
ask.py chdb FOLDER QUESTIONS
"""

import json
import os
import sys


def plain(value):
    """SQLite has no booleans. Sums of DuckDB have 128 bits."""
    return int(value) if isinstance(value, bool) else value


def sqlite(database):
    import sqlite3

    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    return lambda question: connection.execute(question).fetchall()


def duckdb(folder):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for table in os.listdir(folder):
        files = f"{folder}/{table}/**/*.parquet"
        connection.execute(
            f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{files}', hive_partitioning = true, "
            "hive_types = {'host': VARCHAR, 'date': VARCHAR})"
            if has_date(folder, table)
            else f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{files}', hive_partitioning = true, "
            "hive_types = {'host': VARCHAR})"
        )
    return lambda question: connection.execute(question).fetchall()


def chdb(folder):
    from chdb.session import Session

    session = Session()
    session.query("CREATE DATABASE recordings")
    session.query("USE recordings")
    settings = "use_hive_partitioning = 1, output_format_json_quote_64bit_integers = 0, join_use_nulls = 1"
    for table in os.listdir(folder):
        files = f"{folder}/{table}/**/*.parquet"
        date = ", date::String AS date" if has_date(folder, table) else ""
        session.query(
            f"CREATE VIEW {table} AS SELECT * EXCEPT (host{', date' if date else ''}), "
            # It leaves names of folders as they are.
            f"decodeURLComponent(host::String) AS host{date} "
            f"FROM file('{files}', Parquet) SETTINGS use_hive_partitioning = 1"
        )

    def ask(question):
        text = session.query(f"{question} SETTINGS {settings}", "JSONCompactEachRow").bytes()
        return [json.loads(line) for line in text.decode().splitlines()]

    return ask


def has_date(folder, table):
    return any(
        name.startswith("date=")
        for host in os.listdir(f"{folder}/{table}")
        for name in os.listdir(f"{folder}/{table}/{host}")
    )


def main():
    engine, export, questions = sys.argv[1:]
    ask = {"sqlite": sqlite, "duckdb": duckdb, "chdb": chdb}[engine](export)
    with open(questions, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    answers = []
    for question in lines:
        if question and not question.startswith("--"):
            answers.append([[plain(value) for value in row] for row in ask(question)])
    json.dump(answers, sys.stdout)


main()
