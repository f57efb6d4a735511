//! Redirects a pod's TCP traffic to its proxy: nftables rules, written over netlink, so that an image needs nothing but its program.
//! `conduit-proxy init` does it inside the pod, and the CNI plugin from outside. One transaction replaces what an earlier run wrote:
//! there is the old table or the new one, never half of one.

pub mod check;

use std::ffi::CStr;

use conduit_api::PortRange;
use netlink_bindings::{
    nftables::{Chained, CmpOps, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers, Request, VerdictCode},
    traits::Pusher,
    utils::{finalize_nested_header, push_header, push_nested_header},
};
use netlink_socket2::NetlinkSocket;

const TABLE: &CStr = c"conduit";
const OUTPUT: &CStr = c"output";
const PREROUTING: &CStr = c"prerouting";

/// linux/netfilter.h
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const FAMILIES: [u8; 2] = [NFPROTO_IPV4, NFPROTO_IPV6];
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
/// Where destination NAT takes place among other rules (`NF_IP_PRI_NAT_DST`).
const PRIORITY_DNAT: i32 = -100;
/// linux/netfilter/nf_tables.h, `enum nft_meta_keys`
const META_MARK: u32 = 3;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_L4PROTO: u32 = 16;
const IPPROTO_TCP: u8 = 6;
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;
/// Offset of the destination port in a TCP header.
const TCP_DPORT: u32 = 2;
/// Messages of one transaction: 3 for the table, 1 for each chain, 1 for each rule, per family.
const MESSAGES_MAX: u32 = 4096;
/// More ports are a mistake, and would not fit in one message.
const PORTS_MAX: usize = 500;

/// Which traffic goes where.
#[derive(Clone, Debug, clap::Args)]
pub struct Rules {
    /// The port that connections to the pod are redirected to.
    #[arg(long, default_value_t = 4143)]
    pub incoming_proxy_port: u16,
    /// The port that connections from the pod are redirected to.
    #[arg(long, default_value_t = 4140)]
    pub outgoing_proxy_port: u16,
    /// The proxy's user: its own connections are left alone.
    #[arg(long, default_value_t = 2102)]
    pub proxy_uid: u32,
    /// The mark on the proxy's own connections, where it has no user of its own.
    #[arg(long, value_parser = parse_mark)]
    pub proxy_mark: Option<u32>,
    /// Ports of the pod that are not redirected, and ranges of them: 4190,4191,7000-7100
    #[arg(long, value_delimiter = ',', default_value = "4190,4191")]
    pub inbound_ports_to_ignore: Vec<PortRange>,
    /// Ports elsewhere that are not redirected, and ranges of them
    #[arg(long, value_delimiter = ',')]
    pub outbound_ports_to_ignore: Vec<PortRange>,
}

fn parse_mark(text: &str) -> Result<u32, std::num::ParseIntError> {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16))
}

/// Why traffic is not redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// See [`PORTS_MAX`].
    #[error("more than {PORTS_MAX} ports to ignore")]
    TooManyPorts,
    /// The kernel.
    #[error(
        "the kernel refused the redirect rules ({0}); NET_ADMIN in this network namespace, and nftables' NAT, are needed"
    )]
    Kernel(String),
}

/// Writes the rules for IPv4 and IPv6 in this network namespace, in place of those of an earlier run.
///
/// # Errors
/// When the kernel does not take them; nothing has changed then.
pub fn apply(rules: &Rules) -> Result<(), RedirectError> {
    if rules.inbound_ports_to_ignore.len() + rules.outbound_ports_to_ignore.len() > PORTS_MAX {
        return Err(RedirectError::TooManyPorts);
    }
    transact(|transaction| {
        for family in FAMILIES {
            write_table(transaction, family, rules);
        }
    })
}

/// Takes the rules away, whoever wrote them; nothing happens if there are none.
///
/// # Errors
/// When the kernel keeps them.
pub fn remove() -> Result<(), RedirectError> {
    transact(|transaction| FAMILIES.into_iter().for_each(|family| clear(transaction, family)))
}

/// Whether there are rules in this network namespace, of whichever [`Rules`].
///
/// # Errors
/// When the kernel does not say.
pub fn is_applied() -> Result<bool, RedirectError> {
    let mut socket = NetlinkSocket::new();
    for family in FAMILIES {
        let mut request = Request::new().op_gettable_do(&header(family));
        request.encode().push_name(TABLE);
        let found = socket.request(&request).map_err(kernel)?.recv_one().map(drop);
        match found {
            Ok(()) => {}
            Err(error) if error.as_io_error().kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(kernel(error)),
        }
    }
    Ok(true)
}

/// All of `changes`, or none.
fn transact(changes: impl FnOnce(&mut Chained<'static>)) -> Result<(), RedirectError> {
    let mut socket = NetlinkSocket::new();
    let sequence = socket.reserve_seq(MESSAGES_MAX);
    let generation = {
        let request = Request::new().op_getgen_do(&Nfgenmsg::new());
        let mut answer = socket.request(&request).map_err(kernel)?;
        let (_, attributes) = answer.recv_one().map_err(kernel)?;
        attributes.get_id().map_err(kernel)?
    };
    let mut transaction = Chained::new(sequence);
    transaction.request().op_batch_begin_do(&batch()).encode().push_genid(generation);
    changes(&mut transaction);
    transaction.request().op_batch_end_do(&batch());
    let transaction = transaction.finalize();
    socket.request_chained(&transaction).map_err(kernel)?.recv_all().map_err(kernel)
}

fn kernel(error: impl std::fmt::Display) -> RedirectError {
    RedirectError::Kernel(error.to_string())
}

/// Adds the table so that it can be deleted, whether it was there or not.
fn clear(transaction: &mut Chained<'static>, family: u8) {
    transaction.request().set_create().op_newtable_do(&header(family)).encode().push_name(TABLE);
    transaction.request().op_deltable_do(&header(family)).encode().push_name(TABLE);
}

fn write_table(transaction: &mut Chained<'static>, family: u8, rules: &Rules) {
    clear(transaction, family);
    transaction.request().set_create().op_newtable_do(&header(family)).encode().push_name(TABLE);
    for (chain, hook) in [(OUTPUT, NF_INET_LOCAL_OUT), (PREROUTING, NF_INET_PRE_ROUTING)] {
        transaction
            .request()
            .set_create()
            .op_newchain_do(&header(family))
            .encode()
            .push_table(TABLE)
            .push_name(chain)
            .nested_hook()
            .push_num(hook)
            .push_priority(PRIORITY_DNAT)
            .end_nested()
            .push_type(c"nat");
    }
    // Out: what stays in the pod, what the proxy sends, and what is to be left alone, goes as it is.
    rule(transaction, family, OUTPUT, |e| leave(meta_is(e, META_OIF, &LOOPBACK.to_ne_bytes())));
    rule(transaction, family, OUTPUT, |e| leave(meta_is(e, META_SKUID, &rules.proxy_uid.to_ne_bytes())));
    if let Some(mark) = rules.proxy_mark {
        rule(transaction, family, OUTPUT, |e| leave(meta_is(e, META_MARK, &mark.to_ne_bytes())));
    }
    for port in &rules.outbound_ports_to_ignore {
        rule(transaction, family, OUTPUT, |e| leave(port_in(e, *port)));
    }
    rule(transaction, family, OUTPUT, |e| redirect(tcp(e), rules.outgoing_proxy_port));
    for port in &rules.inbound_ports_to_ignore {
        rule(transaction, family, PREROUTING, |e| leave(port_in(e, *port)));
    }
    rule(transaction, family, PREROUTING, |e| redirect(tcp(e), rules.incoming_proxy_port));
}

fn rule(
    transaction: &mut Chained<'static>,
    family: u8,
    chain: &CStr,
    expressions: impl for<'a> FnOnce(Expressions<'a>) -> Expressions<'a>,
) {
    let mut list = Vec::new();
    drop(expressions(PushExprListAttrs::new(&mut list)));
    let mut request = transaction.request().set_create().set_append().op_newrule_do(&header(family));
    let mut attributes = request.encode().push_table(TABLE).push_chain(chain).nested_expressions();
    attributes.as_vec_mut().extend(list);
}

/// A rule's expressions, one after the other: each that does not hold ends the rule.
type Expressions<'a> = PushExprListAttrs<&'a mut Vec<u8>>;

/// A property of the packet or its socket has this value.
fn meta_is<'a>(expressions: Expressions<'a>, key: u32, value: &[u8]) -> Expressions<'a> {
    let expressions = expressions
        .nested_elem()
        .nested_data_meta()
        .push_dreg(Registers::Reg1 as u32)
        .push_key(key)
        .end_nested()
        .end_nested();
    compare(expressions, CmpOps::Eq, value)
}

fn tcp(expressions: Expressions<'_>) -> Expressions<'_> {
    meta_is(expressions, META_L4PROTO, &[IPPROTO_TCP])
}

fn port_in(expressions: Expressions<'_>, ports: PortRange) -> Expressions<'_> {
    let expressions = tcp(expressions)
        .nested_elem()
        .nested_data_payload()
        .push_dreg(Registers::Reg1 as u32)
        .push_base(PayloadBase::TransportHeader as u32)
        .push_offset(TCP_DPORT)
        .push_len(2)
        .end_nested()
        .end_nested();
    // In the network's byte order a larger port is the larger value.
    let expressions = compare(expressions, CmpOps::Gte, &ports.first().to_be_bytes());
    compare(expressions, CmpOps::Lte, &ports.last().to_be_bytes())
}

fn compare<'a>(expressions: Expressions<'a>, op: CmpOps, value: &[u8]) -> Expressions<'a> {
    expressions
        .nested_elem()
        .nested_data_cmp()
        .push_sreg(Registers::Reg1 as u32)
        .push_op(op as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

/// As it is: no further rule of this chain looks at it.
fn leave(expressions: Expressions<'_>) -> Expressions<'_> {
    expressions
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(VerdictCode::Return as u32)
        .end_nested()
        .end_nested()
        .end_nested()
        .end_nested()
}

/// To this port of this machine.
fn redirect(expressions: Expressions<'_>, port: u16) -> Expressions<'_> {
    let mut element = expressions
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::Reg1 as u32)
        .nested_data()
        .push_value(&port.to_be_bytes())
        .end_nested()
        .end_nested()
        .end_nested()
        .nested_elem()
        .push_name(c"redir");
    // The one expression that the bindings have no words for: NFTA_EXPR_DATA with NFTA_REDIR_REG_PROTO_MIN in it.
    let message = element.as_vec_mut();
    let data = push_nested_header(message, NFTA_EXPR_DATA);
    push_header(message, NFTA_REDIR_REG_PROTO_MIN, 4);
    message.extend((Registers::Reg1 as u32).to_be_bytes());
    finalize_nested_header(message, data);
    element.end_nested()
}

/// linux/netfilter/nf_tables.h
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
/// The subsystem that a transaction is for (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM_NFTABLES: u16 = 10;

fn header(family: u8) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family;
    header
}

fn batch() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM_NFTABLES);
    header
}
