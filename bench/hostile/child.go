package hostile

import (
	"bufio"
	"encoding/json"
	"io"
	"net/netip"
	"runtime"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
)

// command is a line that a child reads; it answers each, but for the first, with its counts.
type command struct {
	Address     netip.Prefix // first of all: its inner address
	Peers       []peer       // to know besides
	Limits      *datapath.Limits
	Connections int        // of a member: how many each outside peer may have; zero: what is usual
	Flood       string     // see the floods; empty: stop
	Through     key.Public // the gateway to flood
	At          netip.AddrPort
	To          netip.AddrPort // behind it
}

// peer is a datapath's, without what has no form in JSON.
type peer struct {
	PublicKey  key.Public
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Outside    bool
}

func (c command) peers() (out []datapath.Peer) {
	for _, p := range c.Peers {
		out = append(out, p.datapath())
	}
	return out
}

func (p peer) datapath() datapath.Peer {
	return datapath.Peer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs, Outside: p.Outside, Keepalive: 25 * time.Second}
}

// hello is the first line that a child writes.
type hello struct {
	PublicKey key.Public
	Port      uint16
}

// counts are what a child has counted since it began.
type counts struct {
	Drops map[string]uint64
	Came  int64 // bytes from the victim into a member's sink
	Bulk  int64 // bytes from others
}

// The roles of children.
const (
	roleHub    = "hub"
	roleFlood  = "flood"
	roleMember = "member"
)

// process is what a child is made of.
type process struct {
	device *device.Device
	relay  *relay.Relay // of a member
	server *server      // of a member
	flood  flooder
}

// Child is a gateway, a member or a peer that floods, until in ends. Each is a process of its own, with one CPU, as sidecars are.
func Child(role string, in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	private, answers := key.NewPrivate(), json.NewEncoder(out)
	var p process
	defer p.close()
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		var answer any
		if p.device == nil {
			if err := p.open(role, private, c.Address); err != nil {
				return err
			}
			answer = hello{private.Public(), p.device.ListenPort()}
		} else {
			if err := p.do(c); err != nil {
				return err
			}
			answer = p.counts()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (p *process) open(role string, private key.Private, address netip.Prefix) (err error) {
	if p.device, err = device.Open(device.Options{PrivateKey: private, Interface: datapath.Interface{
		Addresses: []netip.Prefix{address}, MTU: mtu, Hub: role == roleHub}}); err != nil {
		return err
	}
	p.flood = flooder{device: p.device, inner: address.Addr(), private: private}
	if role != roleMember {
		return nil
	}
	if p.server, err = serve(); err != nil {
		return err
	}
	p.relay = relay.New(relay.Options{Network: p.device})
	return p.relay.SetInbound([]relay.Inbound{{Port: echoPort, Protocol: relay.TCP, To: p.server.echo},
		{Port: sinkPort, Protocol: relay.TCP, To: p.server.sink}, {Port: bulkPort, Protocol: relay.TCP, To: p.server.bulk}})
}

func (p *process) do(c command) error {
	if err := p.device.UpdatePeers(c.peers(), nil); err != nil {
		return err
	}
	if c.Limits != nil {
		if err := p.device.SetLimits(*c.Limits); err != nil {
			return err
		}
	}
	if p.relay != nil {
		p.relay.SetPeerLimits(c.Connections, 0)
	}
	p.flood.stop()
	return p.flood.start(c)
}

func (p *process) counts() counts {
	c := counts{Drops: p.device.Drops()}
	if p.server != nil {
		c.Came, c.Bulk = p.server.came.Load(), p.server.others.Load()
	}
	return c
}

func (p *process) close() {
	p.flood.stop()
	if p.relay != nil {
		_ = p.relay.Close()
	}
	if p.device != nil {
		_ = p.device.Close()
	}
}
