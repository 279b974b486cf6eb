use super::StoredDtype;

/// Why a checkpoint does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A tensor that the configuration calls for is not there.
    #[error("tensor `{name}` is missing from the checkpoint")]
    Missing {
        /// Full name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}`: shape {found:?} in the file, {wanted:?} by config.json")]
    Shape {
        /// Full name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        wanted: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("tensor `{name}`: dtype {found} in the file, wanted {wanted}")]
    Dtype {
        /// Full name.
        name: String,
        /// Type in the file.
        found: StoredDtype,
        /// Types that are read.
        wanted: &'static str,
    },
    /// An FP8 matrix without its scales.
    #[error(
        "tensor `{name}`: F8_E4M3 in the file, but neither `{scale}` nor `{scale}_inv` is there"
    )]
    NoScale {
        /// Full name of the matrix.
        name: String,
        /// Full name of the tensor that would hold the scales.
        scale: String,
    },
    /// Scales whose number does not belong to their matrix.
    #[error("tensor `{name}`: shape {found:?} in the file, wanted {wanted} by quantization_config")]
    ScaleShape {
        /// Full name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// What would be accepted.
        wanted: String,
    },
    /// A scale that no quantisation makes.
    #[error("tensor `{name}`: a scale is {found}, wanted none below 0: the file is damaged")]
    Scale {
        /// Full name.
        name: String,
        /// The scale.
        found: f32,
    },
    /// A matrix is FP8, and the configuration says that it is not.
    #[error("tensor `{name}`: F8_E4M3 in the file, but by config.json {why}")]
    NotQuantised {
        /// Full name.
        name: String,
        /// What the configuration says.
        why: &'static str,
    },
    /// Matrices that are used as one are stored in different formats.
    #[error("tensor `{name}`: {found}, but `{first}` is {wanted}; both belong to one stack")]
    Mixed {
        /// Full name of the odd one.
        name: String,
        /// Its format.
        found: &'static str,
        /// Full name of the first.
        first: String,
        /// Its format.
        wanted: &'static str,
    },
    /// A weight is NaN or infinite.
    #[error(
        "tensor `{name}` holds NaN or infinite values: the file is damaged (--allow-nan loads it \
         all the same)"
    )]
    NotFinite {
        /// Full name.
        name: String,
    },
    /// The checkpoint holds tensors that this model has no use for.
    #[error(
        "the checkpoint has {} more than config.json calls for: {}",
        match count { 1 => "1 tensor".to_owned(), count => format!("{count} tensors") },
        some_of(names)
    )]
    Leftover {
        /// Full names, sorted.
        names: Vec<String>,
        /// How many.
        count: usize,
    },
    /// An axis cannot be divided over the ranks.
    #[error("tensor `{name}`: an axis of {shape:?} does not divide into {ranks} equal parts")]
    Indivisible {
        /// Full name.
        name: String,
        /// Whole shape.
        shape: Vec<usize>,
        /// Number of ranks.
        ranks: usize,
    },
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut list: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        list.push(format!("and {} more", names.len() - SHOWN));
    }
    list.join(", ")
}
