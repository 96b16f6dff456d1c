//! stub
use super::Call;
use crate::event::{
    args::Args,
    value::{Hex32, Text},
};
/// names
pub struct Named<'a> {
    /// id
    pub id: Option<i32>,
    /// key
    pub key: Option<Hex32>,
    /// name
    pub name: Option<Text<'a>>,
}
impl<'a> Call<'a> {
    /// args
    pub fn args(&self) -> Args {
        unreachable!()
    }
    /// named
    pub fn named(&self) -> Named<'a> {
        unreachable!()
    }
}
