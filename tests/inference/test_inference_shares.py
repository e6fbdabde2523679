"""One corpus in shares: the merged folder is that of one process to the byte; resume, and what is refused."""

import shutil

import pytest

from lira_hf.inference import LiraEmbedder, Share, TextRow, VectorFolder, VectorsError, embed_rows
from lira_hf.inference.shares import embed_share, merge_shares


ROWS = [TextRow(f"d{n}", f"red {'river ' * (n % 5)}{n}", "vi", ["red moon"] * (n % 3)) for n in range(43)]
SIZE = 8  # six shards, the last one of 3 rows


@pytest.fixture(scope="module")
def embedder(tiny_lira):
    return LiraEmbedder(*tiny_lira(), batch_size=4)


def opened(embedder, path, precision="float32"):
    return VectorFolder.create(path, embedder.model.config.projection_dim, precision, "m", embedder.fingerprint)


def embed(embedder, path, share, rows=ROWS, precision="float32", **options):
    with opened(embedder, path, precision) as folder:
        return embed_share(embedder, rows, folder, Share.parse(share), shard_rows=SIZE, **options)


@pytest.fixture(scope="module")
def shares(embedder, tmp_path_factory):
    """Three finished shares, and the folder of one process."""
    folder = tmp_path_factory.mktemp("shares")
    for number in (1, 2, 3):
        embed(embedder, folder / str(number), f"{number}/3")
    with opened(embedder, folder / "whole") as whole:
        embed_rows(embedder, ROWS, whole, shard_rows=SIZE)
    return folder


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix != ".lock"}


def test_merged_shares_are_the_folder_of_one_process_to_the_byte(shares, tmp_path):
    assert [len(VectorFolder(shares / str(number))) for number in (1, 2, 3)] == [16, 16, 11]
    merged = merge_shares(tmp_path / "merged", [shares / number for number in ("3", "1", "2")])
    assert len(merged) == 43
    assert contents(tmp_path / "merged") == contents(shares / "whole")


def test_a_merge_that_was_killed_goes_on(shares, tmp_path):
    folders = [shares / number for number in ("1", "2", "3")]
    merge_shares(tmp_path / "merged", folders)
    for ending in ("json", "npy"):  # as if killed within the last shard but one
        (tmp_path / "merged" / f"shard-000004.{ending}").unlink()
        (tmp_path / "merged" / f"shard-000005.{ending}").unlink()
    merge_shares(tmp_path / "merged", folders)
    assert contents(tmp_path / "merged") == contents(shares / "whole")
    shutil.copytree(shares / "whole", other := tmp_path / "other")
    for name in ("json", "npy", "arrow"):
        shutil.copy(shares / "2" / f"shard-000000.{name}", other / f"shard-000000.{name}")
    with pytest.raises(VectorsError, match="whose shard 0 is none of these shares'; expected a new folder"):
        merge_shares(other, folders)


def test_a_share_that_was_killed_goes_on_and_is_not_merged_before(embedder, shares, tmp_path):
    def cut():
        yield from ROWS[:30]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(embedder, tmp_path / "1", "1/3", cut())
    with pytest.raises(VectorsError, match=r"share 1/3 isn't finished \(8 vectors so far\).*run the same"):
        merge_shares(tmp_path / "merged", [tmp_path / "1", shares / "2", shares / "3"])
    report = embed(embedder, tmp_path / "1", "1/3")
    assert (report.written, report.skipped) == (8, 8)
    assert contents(tmp_path / "1") == contents(shares / "1")


def test_shares_of_different_models_texts_and_options_are_refused(embedder, shares, tiny_lira, tmp_path):
    others = [shares / "1", shares / "2"]
    embed(LiraEmbedder(*tiny_lira(path_weight=0.9), batch_size=4), tmp_path / "model", "3/3")
    embed(embedder, tmp_path / "half", "3/3", precision="float16")
    embed(embedder, tmp_path / "text", "3/3", [ROWS[0]._replace(text="green"), *ROWS[1:]])  # of another's share
    embed(embedder, tmp_path / "fewer", "3/3", ROWS[:-1])
    embed(embedder, tmp_path / "two", "2/2")
    for name, message in {
        "model": "with fingerprint .* expected shares by one model",
        "half": "with precision 'float16'",
        "text": r"a share with other texts than .* \(texts: ",
        "fewer": r"a share with other texts than .* \(rows: 42 and 43\)",
        "two": r"a share with of 2 than .* expected shares of one corpus",
    }.items():
        with pytest.raises(VectorsError, match=message):
            merge_shares(tmp_path / "merged", [*others, tmp_path / name])
    assert not (tmp_path / "merged").exists()


def test_missing_repeated_and_damaged_shares_are_refused(shares, tmp_path):
    with pytest.raises(VectorsError, match=r"got the shares \[1, 3\] of 3: missing \[2\], more than once \[\]"):
        merge_shares(tmp_path / "m", [shares / "1", shares / "3"])
    with pytest.raises(VectorsError, match=r"missing \[2\], more than once \[1\]"):
        merge_shares(tmp_path / "m", [shares / "1", shares / "1", shares / "3"])
    with pytest.raises(VectorsError, match="whole, which is no share; expected folders that `lira embed --share"):
        merge_shares(tmp_path / "m", [shares / "whole", shares / "2", shares / "3"])
    with pytest.raises(VectorsError, match="got no folders to merge"):
        merge_shares(tmp_path / "m", [])
    shutil.copytree(shares / "2", tmp_path / "2")
    damaged = tmp_path / "2" / "shard-000001.npy"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VectorsError, match="got a damaged shard-000001.npy in"):
        merge_shares(tmp_path / "m", [shares / "1", tmp_path / "2", shares / "3"])
    for file in (tmp_path / "2").glob("shard-000001.*"):
        file.unlink()
    with pytest.raises(VectorsError, match="got .*2 with 8 vectors; expected the 16 that its share 2/3 has"):
        merge_shares(tmp_path / "m", [shares / "1", tmp_path / "2", shares / "3"])


def test_a_folder_holds_one_share(embedder, shares, tmp_path):
    shutil.copytree(shares, tmp_path / "copy")
    with pytest.raises(VectorsError, match=r"holds the share 1/3 \(number: 1\), and number: 2"):
        embed(embedder, tmp_path / "copy" / "1", "2/3")
    with pytest.raises(VectorsError, match="whole with 43 vectors that are no share"):
        embed(embedder, tmp_path / "copy" / "whole", "2/3")


def test_repeated_ids_over_shares_are_refused(embedder, tmp_path):
    rows = [*ROWS[:15], ROWS[0]._replace(text="another")]
    for number in (1, 2):
        embed(embedder, tmp_path / str(number), f"{number}/2", rows)
    with pytest.raises(VectorsError, match="got 1 ids that more than one share holds"):
        merge_shares(tmp_path / "m", [tmp_path / "1", tmp_path / "2"])


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", ""])
def test_what_is_no_share(text):
    with pytest.raises(ValueError, match="expected NUMBER/OF, from 1/8 to 8/8"):
        Share.parse(text)


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 43, 48, 100])
def test_every_row_is_in_one_share(rows):
    for of in (1, 2, 3, 8):
        shares = [Share(number, of) for number in range(1, of + 1)]
        held = [[share.holds(row, SIZE) for share in shares] for row in range(rows)]
        assert all(sum(row) == 1 for row in held)
        assert [share.count(rows, SIZE) for share in shares] == [
            sum(column) for column in zip(*held, strict=True)
        ] or not rows
