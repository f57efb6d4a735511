//! Protobuf with small buffers.
//!
//! tonic gives every call one of 8 kB each way, and keeps them as long as the call lives. A controller has two calls of every
//! proxy open for days, which say a few hundred bytes now and then.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What is reserved for a message, and grows as messages are larger.
const BUFFER_BYTES: usize = 512;
/// A stream that has more ready than this hands it on before it encodes the next message: tonic's own bound.
const YIELD_BYTES: usize = 32 * 1024;

/// The codec of all services.
#[derive(Clone, Debug)]
pub struct SmallProstCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallProstCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallProstCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
