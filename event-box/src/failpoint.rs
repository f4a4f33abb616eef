/// A step at which tests let something go wrong: see [`failpoints`](crate::failpoints). Nothing at all without the feature `_failpoints`.
#[cfg(feature = "_failpoints")]
macro_rules! failpoint {
    ($point:ident) => {
        $crate::failpoints::reach($crate::failpoints::Point::$point).await?
    };
    ($point:ident, $map:expr) => {
        $crate::failpoints::reach($crate::failpoints::Point::$point).await.map_err($map)?
    };
}

#[cfg(not(feature = "_failpoints"))]
macro_rules! failpoint {
    ($point:ident $(, $map:expr)?) => {};
}

pub(crate) use failpoint;
