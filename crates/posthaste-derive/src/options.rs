//! Reading `#[event(..)]`: which options there are, and what each may hold.

use syn::meta::ParseNestedMeta;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, LitInt, LitStr, Path, Result, Type};

use crate::key::KeyPath;

/// What the attribute asks for. Only the type is required.
pub(crate) struct Options {
    pub(crate) event_type: LitStr,
    pub(crate) version: Option<LitInt>,
    pub(crate) key: Option<KeyPath>,
    pub(crate) codec: Option<Type>,
    pub(crate) root: Option<Path>,
}

/// The longest event type, in bytes: the envelope's limit.
const TYPE_LIMIT: usize = 1024;

impl Options {
    /// Reads every `#[event(..)]` of the struct.
    ///
    /// # Errors
    /// Names the option that is missing, unknown, given twice or malformed, at its place.
    pub(crate) fn read(input: &DeriveInput) -> Result<Self> {
        let mut read = Read::default();
        let mut last = None;
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
            attribute.parse_nested_meta(|meta| read.option(&meta))?;
            last = Some(attribute);
        }
        let Some(event_type) = read.event_type else {
            let place =
                last.map_or_else(|| input.ident.span(), |attribute| attribute.path().span());
            return Err(Error::new(
                place,
                "the event has no type: add `#[event(type = \"order.placed\")]` with its name",
            ));
        };
        let Read { version, key, codec, root, .. } = read;
        Ok(Self { event_type, version, key, codec, root })
    }
}

#[derive(Default)]
struct Read {
    event_type: Option<LitStr>,
    version: Option<LitInt>,
    key: Option<KeyPath>,
    codec: Option<Type>,
    root: Option<Path>,
}

impl Read {
    fn option(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        match meta.path.get_ident().map(ToString::to_string).as_deref() {
            Some("type") => once(&mut self.event_type, meta, event_type),
            Some("version") => once(&mut self.version, meta, version),
            Some("key") => once(&mut self.key, meta, KeyPath::parse),
            Some("codec") => once(&mut self.codec, meta, |input| input.parse()),
            Some("crate") => once(&mut self.root, meta, root),
            _ => Err(meta.error(
                "there is no such option: an event has `type`, `version`, `key`, `codec` and \
                 `crate`",
            )),
        }
    }
}

/// Reads the value of an option that may be given once.
fn once<T>(
    place: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    parse: impl FnOnce(ParseStream<'_>) -> Result<T>,
) -> Result<()> {
    if place.is_some() {
        return Err(meta.error("the option is given twice"));
    }
    *place = Some(parse(meta.value()?)?);
    Ok(())
}

fn event_type(input: ParseStream<'_>) -> Result<LitStr> {
    let literal: LitStr = input.parse()?;
    let text = literal.value();
    let wrong = if text.is_empty() {
        "the event type is empty"
    } else if text.len() > TYPE_LIMIT {
        "the event type is longer than 1,024 bytes"
    } else if text.chars().any(char::is_control) {
        "the event type has control characters"
    } else {
        return Ok(literal);
    };
    Err(Error::new(literal.span(), wrong))
}

fn version(input: ParseStream<'_>) -> Result<LitInt> {
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(0) => Err(Error::new(literal.span(), "versions count from 1")),
        Ok(_) => Ok(literal),
        Err(_) => Err(Error::new(literal.span(), "a version is a number from 1 to 4294967295")),
    }
}

fn root(input: ParseStream<'_>) -> Result<Path> {
    if input.peek(LitStr) {
        return Err(input.error("write the path without quotes: `crate = posthaste_core`"));
    }
    Path::parse_mod_style(input)
}
