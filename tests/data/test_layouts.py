"""Tables under the column names of published data sets, and plain folders."""

import re

import numpy as np
import openpyxl
import pytest

from iqa_jax.data.datasets.pairs import Pairs, TableOptions
from iqa_jax.data.layouts import read_pair_table
from iqa_jax.data.pairing import find_pairs
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from tests.miniature import picture, save

pytestmark = pytest.mark.quick


def pictures(folder, *names):
    for k, name in enumerate(names):
        save(folder / name, picture(k, (32, 40)))


def read(path, columns=("distorted",)):
    problems: list[str] = []
    said: list[str] = []
    table = read_pair_table(path, columns, problems, said.append)
    assert not problems
    return table, said


@pytest.mark.parametrize(
    ("header", "line", "folder", "expected", "remark"),
    [
        (
            "image_name,c1,c2,c_total,MOS,SD,MOS_zscore",
            "a.png,0,2,105,3.9,0.6,70.1",
            "1024x768",
            {"distorted": "a.png", "mos": "3.9"},
            "columns as in KonIQ-10k: image_name is read as distorted; "
            "not used: c1, c2, c_total, sd, mos_zscore",
        ),
        ("image_name,MOS_zscore", "a.png,70.1", "512x384", {"distorted": "a.png", "mos": "70.1"}, "KonIQ"),
        (
            "Image name,MOS,Brightness,Sharpness",
            "a.png,51.2,40,50",
            "TestImage",
            {"distorted": "a.png", "mos": "51.2"},
            "columns as in SPAQ",
        ),
        (
            "name,mos,is_valid",
            "sub/a.png,71.2,False",
            "database",
            {"distorted": "sub/a.png", "mos": "71.2"},
            "columns as in FLIVE",
        ),
        (
            "dist_img,ref_img,dmos,var",
            "a.png,b.png,4.57,0.5",
            "images",
            {"distorted": "a.png", "reference": "b.png", "mos": "4.57"},
            "columns as in KADID-10k .its dmos is a MOS.: .*dmos is read as mos; not used: var",
        ),
        (
            "dist_img,ref_img",
            "a.png,b.png",
            "dist_imgs",
            {"distorted": "a.png", "reference": "b.png"},
            "columns as in KADIS-700k",
        ),
        (
            "img_num,codec,dlevel,img_source,img_distorted,distortion,CI_min,CI_max",
            "1,3,2,b.png,a.png,0.71,0.6,0.8",
            "PTC_images",
            {"distorted": "a.png", "reference": "b.png", "dmos": "0.71", "distortion": "3", "level": "2"},
            r"columns as in AIC \(JND, lower is better\): .*not used: img_num, ci_min, ci_max",
        ),
    ],
)
def test_headers_of_published_tables(tmp_path, header, line, folder, expected, remark):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{line}\n")
    table, said = read(path)
    ((_, row),) = table.rows
    assert {column: row.get(column) for column in expected} == expected
    assert "dmos" in expected or "dmos" not in row
    assert len(said) == 1
    assert said[0].startswith("table.csv: ") and re.search(remark, said[0])
    pictures(tmp_path / folder, expected["distorted"], "b.png")
    assert table.path(tmp_path, expected["distorted"]) == f"{folder}/{expected['distorted']}"
    pictures(tmp_path, expected["distorted"])  # beside the table, it counts first
    assert table.path(tmp_path, expected["distorted"]) == expected["distorted"]


def test_a_spreadsheet_of_spaq_and_a_column_ref_beside_other_names(tmp_path):
    book = openpyxl.Workbook()
    for row in (["Image name", "MOS", "Contrast"], ["00001.jpg", 54.1, 50.0]):
        book.active.append(row)
    path = tmp_path / "MOS and Image attribute scores.xlsx"
    book.save(path)
    table, said = read(path)
    assert table.rows == [(2, {"distorted": "00001.jpg", "mos": "54.1", "contrast": "50"})]
    assert "columns as in SPAQ" in said[0]
    (tmp_path / "mine.tsv").write_text("image_name\tref\na.png\tb.png\n")
    table, _ = read(tmp_path / "mine.tsv", ("distorted", "reference"))
    assert table.rows[0][1] == {"distorted": "a.png", "reference": "b.png"}


def test_plain_tables_are_read_without_a_word(tmp_path):
    path = tmp_path / "table.csv"
    for text in (
        "image,mos\na.png,3\n",
        "target,ref\na.png,b.png\n",
        "distorted,reference,name\na.png,b.png,c\n",
        "image,image_name\na.png,b\n",
    ):
        path.write_text(text)
        table, said = read(path)
        assert not said and table.rows[0][1]["distorted"] == "a.png" and not table.folders


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image_name,name,mos", "table.csv: columns image_name and name: which names the images"),
        ("dist_img,ref_img,dmos", "columns dist_img and dmos without var: KADID-10k's dmos holds a MOS"),
        ("img_distorted,dist_img", "columns dist_img and img_distorted"),
        ("target,target,reference", "columns target and target: which is the distorted"),
        ("distorted,mos,mos", "columns mos and mos: which is the mos"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path, header, message):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{','.join('abc')}\n")
    with pytest.raises(DataError, match=message):
        read(path)


def test_columns_that_are_used_are_not_called_unused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("image_name,reference,MOS,distortion,level,note\na.png,b.png,3,jpeg,1,x\n")
    table, (remark,) = read(path)
    assert remark.endswith("; not used: note") and table.rows[0][1]["distortion"] == "jpeg"


def test_lines_of_a_name_and_a_score_are_those_of_pipal(tmp_path):
    label = tmp_path / "Train_Label" / "A0001.txt"
    label.parent.mkdir()
    label.write_text("A0001_00_00.bmp,1520.0648\nA0001_00_01.bmp,1400.5\n")
    pictures(tmp_path / "Train_Ref", "A0001.bmp")
    for k in range(2):
        pictures(tmp_path / f"Distortion_{k + 1}", f"A0001_00_0{k}.bmp")
    table, said = read(label)
    assert [row["mos"] for _, row in table.rows] == ["1520.0648", "1400.5"]
    (remark,) = said
    assert "as in PIPAL, a name and a MOS on each line, of the reference ../Train_Ref/A0001.bmp" in remark
    pairs = find_pairs([], [str(label)])
    assert [target.resolve().relative_to(tmp_path.resolve()).as_posix() for target, _ in pairs] == [
        "Distortion_1/A0001_00_00.bmp",
        "Distortion_2/A0001_00_01.bmp",
    ]
    assert {reference.resolve() for _, reference in pairs} == {(tmp_path / "Train_Ref/A0001.bmp").resolve()}
    label.write_text("A0001_00_00.bmp,1520.0648\nsome text\n")
    with pytest.raises(DataError, match="no line with the columns"):
        find_pairs([], [str(label)])


def test_a_published_table_is_prepared_with_its_labels(tmp_path, capsys):
    pictures(tmp_path / "kadid" / "images", "I01.png", "I01_01_01.png", "I01_01_02.png")
    table = tmp_path / "kadid" / "mine.csv"
    table.write_text(
        "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.5,0.1\nI01_01_02.png,I01.png,2.5,0.1\n"
    )
    data = tmp_path / "data"
    builder = prepare_dataset("pairs", data_dir=data, manual_dir=table, options=TableOptions((1.0, 5.0)))
    source = PairSource(builder, "train")
    assert source.paired and source.mos.tolist() == [4.5, 2.5] and source.score.kind == "MOS"
    assert capsys.readouterr().err.count("columns as in KADID-10k") == 1


def test_a_folder_of_images_is_an_unlabelled_set(tmp_path):
    pictures(tmp_path / "photos", "a/1.png", "b/1.png", "2.jpg")
    (tmp_path / "photos" / "notes.txt").write_text("mine")
    builder = prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "photos")
    source = PairSource(builder, "unlabelled")
    assert source.dataset == "pairs/photos" and not source.paired and np.isnan(source.mos).all()
    assert source.name.tolist() == ["2.jpg", "a/1.png", "b/1.png"]
    assert source.distorted_image(2).shape == (32, 40, 3)
    pictures(tmp_path / "photos", "b/2.png")  # is noticed, and prepared again
    builder = prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "photos")
    assert len(PairSource(builder, "unlabelled")) == 4


def test_folders_of_references_and_distorted_images_are_pairs(tmp_path):
    pictures(tmp_path / "made" / "references", "x/R.png")
    pictures(tmp_path / "made" / "distorted", "x/R_1.png", "x/R_2.png")
    builder = prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "made")
    source = PairSource(builder, "unlabelled")
    assert source.paired and source.reference.tolist() == ["references/x/R.png"] * 2
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no image in this directory"):
        prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "none")
    with pytest.raises(DataError, match="nowhere.csv is no file or folder"):
        Pairs.configuration("", tmp_path / "nowhere.csv")
