use std::ops::Range;

use burn::tensor::{Bytes, DType, Tensor, TensorData};
use glm_backends::groups::Bits;
use glm_backends::weight::Weight;

use super::host::{HostBuffer, is_finite};
use super::host_fp8::{Fp8Buffer, Scales};
use super::host_groups::GroupBuffer;
use super::loader::{Loader, Origin};
use super::view::{FLOATS, is_float};
use super::{LoadError, Matrices, Quantise, Split, StoredDtype, Weights, random};
use crate::config::ScaleLayout;

/// Whether `--quant` may change a matrix that is stored in floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoad {
    /// It becomes what was asked for.
    Quantise,
    /// It stays in floats: what every FP8 checkpoint of these families leaves as it is.
    Keep,
}

/// Rows of a stored tensor that become rows of a stack.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Name of the tensor below the prefix.
    pub name: String,
    /// Its whole shape, outermost axis first.
    pub shape: Vec<usize>,
    /// The range of each axis that is taken. All pieces of a stack take equally many columns.
    pub part: Vec<Range<usize>>,
}

impl Piece {
    fn rows(&self) -> usize {
        self.part.iter().rev().skip(1).map(ExactSizeIterator::len).product()
    }

    fn columns(&self) -> usize {
        self.part.last().map_or(1, ExactSizeIterator::len)
    }
}

/// How a matrix is kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Dense(DType),
    /// With this many columns a scale.
    Fp8 {
        group: usize,
    },
    Groups(Bits),
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Kept::Dense(DType::BF16) => "in BF16",
            Kept::Dense(DType::F16) => "in F16",
            Kept::Dense(_) => "in F32",
            Kept::Fp8 { .. } => "F8_E4M3",
            Kept::Groups(_) => "in groups of integers",
        }
    }
}

impl Weights<'_> {
    /// This rank's part of a matrix `[out, in]`, as the checkpoint holds it or as it was asked to
    /// be quantised. Only that part is read.
    ///
    /// # Errors
    /// As [`Weights::tensor`], when the axis does not divide, and when an FP8 matrix has no scales,
    /// scales of another shape, or is none by config.json.
    pub fn weight(
        &self,
        name: &str,
        shape: [usize; 2],
        split: Split,
        on_load: OnLoad,
    ) -> Result<Weight, LoadError> {
        self.stack(&[self.piece(name, shape, split)?], on_load)
    }

    /// This rank's part of a matrix `[out, in]`.
    ///
    /// # Errors
    /// When the axis does not divide.
    pub fn piece(&self, name: &str, shape: [usize; 2], split: Split) -> Result<Piece, LoadError> {
        let part = split.part(shape, self.rank());
        let part = part.ok_or_else(|| self.indivisible(name, &shape))?;
        Ok(Piece { name: name.to_owned(), shape: shape.to_vec(), part: part.to_vec() })
    }

    /// Whether pieces are kept in the same format, so that they make a stack.
    ///
    /// # Errors
    /// As [`Weights::stack`], but for different formats.
    pub fn alike(&self, pieces: &[Piece], on_load: OnLoad) -> Result<bool, LoadError> {
        let kept = pieces.iter().map(|piece| self.kept(piece, on_load));
        let kept = kept.collect::<Result<Vec<_>, _>>()?;
        Ok(kept.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// The rows of several tensors, one below the other, in one matrix.
    ///
    /// # Errors
    /// As [`Weights::weight`], and when they are stored in different formats.
    ///
    /// # Panics
    /// Without any piece.
    pub fn stack(&self, pieces: &[Piece], on_load: OnLoad) -> Result<Weight, LoadError> {
        let first = pieces.first().expect("a stack of something");
        let kept = self.kept(first, on_load)?;
        for piece in pieces {
            let found = self.kept(piece, on_load)?;
            if found != kept {
                return Err(LoadError::Mixed {
                    name: self.full_name(&piece.name),
                    found: found.name(),
                    first: self.full_name(&first.name),
                    wanted: kept.name(),
                });
            }
        }
        let rows = pieces.iter().map(Piece::rows).sum();
        let shape = [rows, first.columns()];
        let format = &self.loader.format;
        let device = self.loader.device;
        match (kept, &self.loader.origin) {
            (_, Origin::Random(_)) => {
                for piece in pieces {
                    self.made(&piece.name, &piece.shape)?;
                }
                Ok(match kept {
                    Kept::Dense(dtype) => Weight::Dense(random::floats(shape, device, dtype)),
                    Kept::Fp8 { group } => {
                        random::fp8(shape, group, format.activations(), device).into()
                    }
                    Kept::Groups(bits) => random::groups(shape, bits, device).into(),
                })
            }
            (Kept::Dense(dtype), Origin::Files(_)) => {
                if let [piece] = pieces
                    && let Some(mapped) = self.mapped(piece, dtype)?
                {
                    return Ok(Weight::Dense(mapped.reshape(shape)));
                }
                let mut buffer = HostBuffer::new(dtype, shape.iter().product());
                for piece in pieces {
                    self.append(&mut buffer, &piece.name, &piece.shape, &piece.part)?;
                }
                Ok(Weight::Dense(buffer.upload(shape, device)))
            }
            (Kept::Fp8 { group }, Origin::Files(_)) => {
                let mut buffer = Fp8Buffer::new(shape, group);
                for piece in pieces {
                    self.append_fp8(&mut buffer, piece)?;
                }
                Ok(buffer.upload(format.activations(), device).into())
            }
            (Kept::Groups(bits), Origin::Files(_)) => {
                let mut buffer = GroupBuffer::new(shape, bits);
                for piece in pieces {
                    self.append_groups(&mut buffer, piece)?;
                }
                Ok(buffer.upload(device).into())
            }
        }
    }

    /// Whole tensors as matrices where they lie in their files, `None` where one of them cannot stay
    /// there.
    ///
    /// # Errors
    /// As [`Weights::stack`].
    pub fn apart(
        &self,
        pieces: &[Piece],
        on_load: OnLoad,
    ) -> Result<Option<Vec<Tensor<2>>>, LoadError> {
        let mut kept = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match self.kept(piece, on_load)? {
                Kept::Dense(dtype) if self.shared(piece, dtype)?.is_some() => kept.push(dtype),
                _ => return Ok(None),
            }
        }
        if kept.windows(2).any(|pair| pair[0] != pair[1]) {
            return Ok(None);
        }
        let mapped = |(piece, dtype): (&Piece, DType)| {
            let mapped = self.mapped(piece, dtype)?;
            Ok(mapped.map(|it| it.reshape([piece.rows(), piece.columns()])))
        };
        pieces.iter().zip(kept).map(mapped).collect()
    }

    /// A whole tensor where it lies in its file, if the device is the host and takes it as it is.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub(super) fn mapped(
        &self,
        piece: &Piece,
        dtype: DType,
    ) -> Result<Option<Tensor<1>>, LoadError> {
        let Some(bytes) = self.shared(piece, dtype)? else { return Ok(None) };
        let info = self.check(&piece.name, &piece.shape)?;
        if !self.loader.format.allow_nan && !is_finite(&bytes, &info.dtype) {
            return Err(LoadError::NotFinite { name: self.full_name(&piece.name) });
        }
        (self.loader.progress)(info.bytes());
        let count: usize = piece.shape.iter().product();
        let data = TensorData::from_bytes(bytes, [count], dtype);
        Ok(Some(Tensor::from_data(data, (self.loader.device, dtype))))
    }

    /// The bytes of such a tensor in its file.
    fn shared(&self, piece: &Piece, dtype: DType) -> Result<Option<Bytes>, LoadError> {
        let Loader { origin, format, .. } = self.loader;
        let is_whole = (piece.shape.iter().zip(&piece.part)).all(|(all, part)| *part == (0..*all));
        let info = self.info(&piece.name)?;
        let maps = format.map && format.matrices == Matrices::AsStored;
        let as_it_is = is_float(&info.dtype) && self.dtype_of_matrix(&info.dtype) == dtype;
        if !maps || !is_whole || !as_it_is {
            return Ok(None);
        }
        let Origin::Files(source) = origin else { return Ok(None) };
        // In a file of another program tensors may begin anywhere.
        let is_aligned = |bytes: &Bytes| bytes.as_ptr().addr().is_multiple_of(dtype.size());
        Ok(source.shared(&self.full_name(&piece.name)).filter(is_aligned))
    }

    /// Bytes that an element of a piece takes on the device, its scales aside.
    ///
    /// # Errors
    /// As [`Weights::alike`].
    pub fn bytes_per_element(&self, piece: &Piece, on_load: OnLoad) -> Result<usize, LoadError> {
        Ok(match self.kept(piece, on_load)? {
            Kept::Dense(dtype) => dtype.size(),
            Kept::Fp8 { .. } => 1,
            Kept::Groups(_) => 1,
        })
    }

    /// What a stored matrix becomes. The tensor's type and the ignore list of config.json decide,
    /// never its name.
    fn kept(&self, piece: &Piece, on_load: OnLoad) -> Result<Kept, LoadError> {
        let name = || self.full_name(&piece.name);
        let format = &self.loader.format;
        let dtype = self.info(&piece.name)?.dtype;
        if is_float(&dtype) {
            return Ok(match (format.quantise, on_load) {
                (Quantise::Fp8, OnLoad::Quantise) => Kept::Fp8 { group: piece.columns() },
                (Quantise::Groups(bits), OnLoad::Quantise) => Kept::Groups(bits),
                _ => Kept::Dense(self.dtype_of_matrix(&dtype)),
            });
        }
        if dtype != StoredDtype::F8E4M3 || piece.shape.len() != 2 {
            let wanted = match piece.shape.len() {
                2 => "BF16, F16, F32 or F8_E4M3",
                _ => FLOATS,
            };
            return Err(LoadError::Dtype { name: name(), found: dtype, wanted });
        }
        let Some(quantization) = &format.quantization else {
            return Err(LoadError::NotQuantised { name: name(), why: "no matrix is quantised" });
        };
        if quantization.ignores(&name()) {
            let why = "this module is in the ignore list of quantization_config";
            return Err(LoadError::NotQuantised { name: name(), why });
        }
        Ok(Kept::Fp8 {
            group: match quantization.scales {
                ScaleLayout::Channel | ScaleLayout::Tensor => piece.columns(),
                ScaleLayout::Block([_, columns]) => columns,
            },
        })
    }

    /// What a matrix that is stored in floats is kept in.
    pub(super) fn dtype_of_matrix(&self, stored: &StoredDtype) -> DType {
        match (self.loader.format.matrices, stored) {
            (Matrices::InDtype, _) => self.loader.format.dtype,
            (Matrices::AsStored, StoredDtype::Bf16) => DType::BF16,
            (Matrices::AsStored, StoredDtype::F16) => DType::F16,
            (Matrices::AsStored, _) => DType::F32,
        }
    }

    fn append_fp8(&self, buffer: &mut Fp8Buffer, piece: &Piece) -> Result<(), LoadError> {
        let stored = self.stored(&piece.name, &piece.shape)?;
        let finite = match stored.dtype {
            StoredDtype::F8E4M3 => {
                let scales = self.scales(piece, &stored.name)?;
                buffer.extend(stored.bytes, &piece.shape, &piece.part, &scales)
            }
            _ => buffer.quantise(stored.bytes, &stored.dtype, &piece.shape, &piece.part),
        };
        if !finite && !self.loader.format.allow_nan {
            return Err(LoadError::NotFinite { name: stored.name });
        }
        self.done(&stored, &piece.part, &piece.shape);
        Ok(())
    }

    fn append_groups(&self, buffer: &mut GroupBuffer, piece: &Piece) -> Result<(), LoadError> {
        let stored = self.stored(&piece.name, &piece.shape)?;
        let finite = buffer.quantise(stored.bytes, &stored.dtype, &piece.shape, &piece.part);
        if !finite {
            return Err(LoadError::NotFinite { name: stored.name });
        }
        self.done(&stored, &piece.part, &piece.shape);
        Ok(())
    }

    /// The scales that belong to the stored FP8 matrix `matrix`, whole.
    fn scales(&self, piece: &Piece, matrix: &str) -> Result<Scales, LoadError> {
        let stem = piece.name.strip_suffix("weight").unwrap_or(&piece.name);
        let names = ["weight_scale", "weight_scale_inv"].map(|name| format!("{stem}{name}"));
        let Some(name) = names.iter().find(|name| self.has(name)) else {
            let scale = self.full_name(&names[0]);
            return Err(LoadError::NoScale { name: matrix.to_owned(), scale });
        };
        let quantization = self.loader.format.quantization.as_ref().expect("checked by `kept`");
        let [out, input] = [piece.shape[0], piece.shape[1]];
        let found = self.info(name)?.shape;
        let block = match quantization.scales {
            ScaleLayout::Channel => [1, input],
            ScaleLayout::Tensor => [out, input],
            ScaleLayout::Block(block) => block,
        };
        let grid = [out.div_ceil(block[0]), input.div_ceil(block[1])];
        let wanted = match quantization.scales {
            ScaleLayout::Channel => vec![grid.to_vec(), vec![out]],
            ScaleLayout::Tensor => vec![vec![], vec![1], grid.to_vec()],
            ScaleLayout::Block(_) => vec![grid.to_vec()],
        };
        if !wanted.contains(&found) {
            let wanted: Vec<String> = wanted.iter().map(|shape| format!("{shape:?}")).collect();
            let name = self.full_name(name);
            return Err(LoadError::ScaleShape { name, found, wanted: wanted.join(" or ") });
        }
        if grid[1] > 1 && !piece.part[1].start.is_multiple_of(block[1]) {
            return Err(self.indivisible(&piece.name, &piece.shape));
        }
        let mut values = HostBuffer::new(DType::F32, grid.iter().product());
        let whole: Vec<Range<usize>> = found.iter().map(|length| 0..*length).collect();
        self.append(&mut values, name, &found, &whole)?;
        let values = values.into_f32();
        match values.iter().find(|scale| **scale < 0.0) {
            None => Ok(Scales { values, columns: grid[1], block }),
            Some(found) => Err(LoadError::Scale { name: self.full_name(name), found: *found }),
        }
    }
}
