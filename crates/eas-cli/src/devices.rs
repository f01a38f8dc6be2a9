//! What networks are trained on: the processor or GPUs, as a person asks for them and as there are.

use std::fmt;
use std::str::FromStr;

use eas_ir::Bytes;
use eas_train::{CudaSurvey, Device, Gpu, survey_cuda};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::commands::bad_input;
use crate::print;

/// What is said of a run on GPUs.
pub(crate) const ROUNDING: &str = "on a GPU a training comes to the same again but for rounding, by which a search may choose otherwise";

/// What trials are trained on. Text: `auto`, `cpu`, `cuda`, or `cuda:` and numbers of GPUs, as
/// `cuda:0,1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// All GPUs where this program can use some, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// All GPUs.
    Cuda,
    /// The GPUs of these numbers, each once, as CUDA counts them.
    Gpus(Vec<usize>),
}

impl fmt::Display for Devices {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Devices::Auto => out.write_str("auto"),
            Devices::Cpu => out.write_str("cpu"),
            Devices::Cuda => out.write_str("cuda"),
            Devices::Gpus(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(out, "cuda:{}", numbers.join(","))
            }
        }
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = || -> Option<Vec<usize>> {
            text.strip_prefix("cuda:")?.split(',').map(|number| number.parse().ok()).collect()
        };
        let expected =
            "expected \"auto\", \"cpu\", \"cuda\" or numbers of GPUs such as \"cuda:0,1\"";
        match text {
            "auto" => Ok(Devices::Auto),
            "cpu" => Ok(Devices::Cpu),
            "cuda" => Ok(Devices::Cuda),
            _ => {
                let numbers = numbers().ok_or_else(|| format!("{expected}, found `{text}`"))?;
                let mut sorted = numbers.clone();
                sorted.sort_unstable();
                match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(twice) => Err(format!("{expected}, found `{text}`: {} twice", twice[0])),
                    None => Ok(Devices::Gpus(numbers)),
                }
            }
        }
    }
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What there is of the devices that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// The processor.
    Cpu,
    /// GPUs, at least one, each with its number.
    Gpus(Vec<(usize, Gpu)>),
}

impl Places {
    /// The first of them.
    pub(crate) fn first(&self) -> Device {
        match self {
            Places::Cpu => Device::Cpu,
            Places::Gpus(gpus) => gpus.first().map_or(Device::Cpu, |(gpu, _)| Device::Cuda(*gpu)),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Places::Cpu => 1,
            Places::Gpus(gpus) => gpus.len(),
        }
    }

    /// What whoever trains on them should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Places::Gpus(gpus) = self else { return Vec::new() };
        let gpus = gpus.iter().map(|(number, gpu)| {
            format!("on {}: {}, {} free", Device::Cuda(*number), gpu.name, Bytes(gpu.free))
        });
        gpus.chain([format!("note: {ROUNDING}")]).collect()
    }
}

impl Devices {
    /// Those that there are on this machine.
    ///
    /// # Errors
    /// Bad input where GPUs were asked for that this program can't use: what is missing, and what mends
    /// it.
    pub(crate) fn places(&self) -> anyhow::Result<Places> {
        match self {
            Devices::Cpu => Ok(Places::Cpu),
            Devices::Auto | Devices::Cuda | Devices::Gpus(_) => {
                let found = survey_cuda();
                let idle = idle(&found);
                let places = self.among(found).map_err(bad_input)?;
                idle.iter().for_each(|why| print::note(why));
                Ok(places)
            }
        }
    }

    /// Those of what was found.
    pub(crate) fn among(
        &self,
        CudaSurvey { gpus, missing, .. }: CudaSurvey,
    ) -> Result<Places, String> {
        let count = gpus.len();
        let all: Vec<(usize, Gpu)> = gpus.into_iter().enumerate().collect();
        let usable: Vec<(usize, Gpu)> = match missing.is_empty() {
            true => all.iter().filter(|(_, gpu)| gpu.unusable.is_none()).cloned().collect(),
            false => Vec::new(),
        };
        match self {
            Devices::Cpu => Ok(Places::Cpu),
            Devices::Auto if usable.is_empty() => Ok(Places::Cpu),
            Devices::Auto | Devices::Cuda if !usable.is_empty() => Ok(Places::Gpus(usable)),
            Devices::Gpus(numbers) if !usable.is_empty() => {
                let of = |number: &usize| match all.get(*number) {
                    None => Err(format!(
                        "devices `{self}`: expected numbers of GPUs below {count}, found {number}; eas \
                         doctor lists them"
                    )),
                    Some((_, Gpu { unusable: Some(why), .. })) => {
                        Err(format!("devices `{self}`: {why}, so it can't be used; see eas doctor"))
                    }
                    Some(gpu) => Ok(gpu.clone()),
                };
                Ok(Places::Gpus(numbers.iter().map(of).collect::<Result<_, _>>()?))
            }
            Devices::Auto | Devices::Cuda | Devices::Gpus(_) => {
                let missing = match missing.is_empty() {
                    true => "there is none".to_owned(),
                    false => missing.join("; "),
                };
                Err(format!("devices `{self}`: no GPU can be used: {missing}; see eas doctor"))
            }
        }
    }
}

/// That there are GPUs which can't be used, for whoever leaves the choice to the program.
fn idle(CudaSurvey { gpus, missing, .. }: &CudaSurvey) -> Option<String> {
    let can_be_mended = !gpus.is_empty() && !missing.is_empty();
    can_be_mended.then(|| {
        format!(
            "note: on the processor, since GPUs can't be used: {}; see eas doctor",
            missing.join("; ")
        )
    })
}

/// The device that a command works on alone.
///
/// # Errors
/// As [`Devices::places`].
pub(crate) fn device(asked: &Devices) -> anyhow::Result<Device> {
    Ok(asked.places()?.first())
}

/// A device as a command line names it: devices, but one GPU at most.
pub(crate) fn one_device(text: &str) -> Result<Devices, String> {
    match text.parse()? {
        Devices::Gpus(numbers) if numbers.len() > 1 => {
            Err(format!("expected one device, such as \"cuda:0\", found `{text}`"))
        }
        one => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;

    fn found(gpus: usize, missing: &[&str]) -> CudaSurvey {
        let gpu = |number| Gpu {
            name: format!("GPU {number}"),
            capability: "9.0".to_owned(),
            memory: 80 << 30,
            free: 79 << 30,
            unusable: None,
        };
        CudaSurvey {
            gpus: (0..gpus).map(gpu).collect(),
            missing: missing.iter().map(|text| (*text).to_owned()).collect(),
            ..CudaSurvey::default()
        }
    }

    fn numbers(places: Places) -> Vec<usize> {
        match places {
            Places::Cpu => Vec::new(),
            Places::Gpus(gpus) => gpus
                .into_iter()
                .map(|(number, gpu)| {
                    assert_eq!(gpu.name, format!("GPU {number}"));
                    number
                })
                .collect(),
        }
    }

    #[test]
    fn devices_are_read_as_they_are_written() {
        let mut rng = Rng::new(1);
        let gpus = (0..50).map(|_| {
            let mut numbers: Vec<usize> = (0..12).collect();
            rng.shuffle(&mut numbers);
            numbers.truncate(1 + rng.below(12));
            Devices::Gpus(numbers)
        });
        for devices in [Devices::Auto, Devices::Cpu, Devices::Cuda].into_iter().chain(gpus) {
            assert_eq!(devices.to_string().parse(), Ok(devices.clone()));
            let text = format!("devices = \"{devices}\"");
            let table: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(table["devices"].clone().try_into::<Devices>().unwrap(), devices);
            assert_eq!(toml::Value::try_from(&devices).unwrap(), table["devices"]);
        }
        for wrong in ["", "gpu", "CPU", "cuda:", "cuda:0,", "cuda:-1", "cuda:0,0", "cuda:a", "0"] {
            assert!(wrong.parse::<Devices>().is_err(), "{wrong}");
        }
        assert!(one_device("cuda:0,1").is_err());
        assert_eq!(one_device("cuda:1"), Ok(Devices::Gpus(vec![1])));
    }

    #[test]
    fn gpus_are_used_where_they_can_be_and_missed_where_they_were_asked_for() {
        let asked = ["auto", "cuda", "cuda:1", "cuda:2,0"].map(|text| text.parse::<Devices>());
        for (devices, expected) in
            asked.iter().zip([vec![0, 1, 2], vec![0, 1, 2], vec![1], vec![2, 0]])
        {
            let places = devices.as_ref().unwrap().among(found(3, &[])).unwrap();
            assert_eq!(places.first(), Device::Cuda(expected[0]));
            assert_eq!(numbers(places), expected, "{devices:?}");
        }
        for (survey, told) in
            [(found(0, &["no driver"]), "no driver"), (found(2, &["no cuDNN"]), "no cuDNN")]
        {
            assert_eq!(Devices::Auto.among(survey.clone()), Ok(Places::Cpu));
            assert_eq!(idle(&survey).is_some(), !survey.gpus.is_empty());
            for devices in [Devices::Cuda, Devices::Gpus(vec![0])] {
                let error = devices.among(survey.clone()).unwrap_err();
                assert!(error.contains(told) && error.contains("eas doctor"), "{error}");
            }
        }
        assert_eq!((idle(&found(3, &[])), idle(&found(0, &[]))), (None, None));
        let error = Devices::Gpus(vec![0, 3]).among(found(3, &[])).unwrap_err();
        assert!(error.contains("below 3, found 3"), "{error}");
        assert_eq!(Devices::Cpu.among(found(3, &[])), Ok(Places::Cpu));
        // One that can't be used is left out, and the others keep their numbers.
        let mut old = found(3, &[]);
        old.gpus[1].unusable = Some("cuda:1: too old".to_owned());
        assert_eq!(numbers(Devices::Auto.among(old.clone()).unwrap()), [0, 2]);
        assert_eq!(numbers(Devices::Cuda.among(old.clone()).unwrap()), [0, 2]);
        let error = Devices::Gpus(vec![1]).among(old.clone()).unwrap_err();
        assert!(error.contains("cuda:1: too old"), "{error}");
        old.gpus.iter_mut().for_each(|gpu| gpu.unusable = Some("too old".to_owned()));
        assert_eq!(Devices::Auto.among(old), Ok(Places::Cpu));
    }
}
