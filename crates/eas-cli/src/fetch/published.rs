//! Where data sets are published, and the sums that their files are known by.
//!
//! The sums of CIFAR-10 and CIFAR-100 stand on their author's page, those of Fashion-MNIST in its
//! repository; all of them are the ones that torchvision checks (`torchvision/datasets`: `cifar.py` and
//! its page for the binary versions, `mnist.py`, `svhn.py`). Sizes are those that the places tell.

use std::path::{Path, PathBuf};

/// A file as it was published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    /// Its MD5 sum, in hexadecimal.
    pub(crate) md5: &'a str,
}

/// The files of a data set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataFiles<'a> {
    /// The data set's name.
    pub(crate) name: &'a str,
    /// Addresses that hold all of its files, the official ones, in the order in which they are tried.
    pub(crate) places: &'a [&'a str],
    /// Where its files go, within the folder of data; empty for that folder itself.
    pub(crate) folder: &'a str,
    pub(crate) files: &'a [Published<'a>],
    /// Files that are fetched only where they are asked for.
    pub(crate) extra: &'a [Published<'a>],
    /// What the files unpack to, where they are archives: paths within the folder of data, one folder's
    /// all of them, and their bytes. Archives aren't kept.
    pub(crate) unpacked: &'a [(&'a str, u64)],
}

impl DataFiles<'_> {
    /// A file or folder by which the data set is known to be in a folder of data.
    pub(super) fn mark(&self, to: &Path) -> PathBuf {
        match (self.unpacked.first(), self.files.first()) {
            (Some((path, _)), _) => to.join(path),
            (None, Some(file)) => to.join(self.folder).join(file.name),
            (None, None) => to.to_owned(),
        }
    }
}

/// Every data set that can be fetched.
pub(crate) static DATA_SETS: [DataFiles<'static>; 5] = [
    DataFiles {
        name: "cifar10",
        places: &["https://www.cs.toronto.edu/~kriz/"],
        folder: "",
        files: &[file("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530")],
        extra: &[],
        unpacked: &[
            ("cifar-10-batches-bin/data_batch_1.bin", 30_730_000),
            ("cifar-10-batches-bin/data_batch_2.bin", 30_730_000),
            ("cifar-10-batches-bin/data_batch_3.bin", 30_730_000),
            ("cifar-10-batches-bin/data_batch_4.bin", 30_730_000),
            ("cifar-10-batches-bin/data_batch_5.bin", 30_730_000),
            ("cifar-10-batches-bin/test_batch.bin", 30_730_000),
        ],
    },
    DataFiles {
        name: "cifar100",
        places: &["https://www.cs.toronto.edu/~kriz/"],
        folder: "",
        files: &[file("cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8")],
        extra: &[],
        unpacked: &[
            ("cifar-100-binary/train.bin", 153_700_000),
            ("cifar-100-binary/test.bin", 30_740_000),
        ],
    },
    DataFiles {
        name: "svhn",
        // The page itself links to the second.
        places: &[
            "https://ufldl.stanford.edu/housenumbers/",
            "http://ufldl.stanford.edu/housenumbers/",
        ],
        folder: "svhn",
        files: &[
            file("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            file("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        ],
        extra: &[file("extra_32x32.mat", 1_329_278_602, "a93ce644f1a588dc4d68dda5feec44a7")],
        unpacked: &[],
    },
    DataFiles {
        name: "mnist",
        // Its authors' page no longer serves it to everybody; these hold the same files.
        places: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        folder: "mnist",
        files: &[
            file("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            file("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            file("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            file("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
        extra: &[],
        unpacked: &[],
    },
    DataFiles {
        name: "fashion_mnist",
        places: &[
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ],
        folder: "fashion_mnist",
        files: &[
            file("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            file("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            file("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            file("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ],
        extra: &[],
        unpacked: &[],
    },
];

const fn file(name: &'static str, bytes: u64, md5: &'static str) -> Published<'static> {
    Published { name, bytes, md5 }
}
