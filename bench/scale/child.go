package scale

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/tenantwire/tenantwire/bench/load"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// answer is a line that the gateway writes: the first says who it is, each other one answers a line of peers.
type answer struct {
	PublicKey key.Public
	Port      uint16
	Took      time.Duration
}

// known is a peer as a line says it.
type known struct {
	PublicKey key.Public
	Endpoint  netip.AddrPort
	Address   netip.Addr
	Outside   bool
}

// Child is the gateway, a process of its own with one CPU, until in ends.
func Child(in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	private, answers := key.NewPrivate(), json.NewEncoder(out)
	d, err := device.Open(device.Options{PrivateKey: private, Interface: datapath.Interface{
		Addresses: []netip.Prefix{netip.PrefixFrom(gatewayAddress, 32)}, MTU: mtu, Hub: true}})
	if err != nil {
		return err
	}
	defer d.Close()
	if err := answers.Encode(answer{PublicKey: private.Public(), Port: d.ListenPort()}); err != nil {
		return err
	}
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		took, err := update(d, line)
		if err != nil {
			return err
		}
		debug.FreeOSMemory() // what came as text is none of a gateway's
		if err := answers.Encode(answer{Took: took}); err != nil {
			return err
		}
	}
}

// update has the device know the peers that a line names.
func update(d *device.Device, line []byte) (time.Duration, error) {
	var all []known
	if err := json.Unmarshal(line, &all); err != nil {
		return 0, err
	}
	peers := make([]datapath.Peer, 0, len(all))
	for _, p := range all {
		peers = append(peers, datapath.Peer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, Outside: p.Outside,
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(p.Address, 32)}})
	}
	begin := time.Now()
	err := d.UpdatePeers(peers, nil)
	return time.Since(begin), err
}

// gateway is the child from outside.
type gateway struct {
	answer
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start() (*gateway, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &gateway{cmd: exec.Command(self, "-gateway")}
	g.cmd.Stderr = os.Stderr
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	g.out = bufio.NewScanner(out)
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	g.answer, err = g.listen()
	return g, err
}

func (g *gateway) listen() (a answer, err error) {
	if !g.out.Scan() {
		return a, fmt.Errorf("the gateway has ended: %w", io.ErrUnexpectedEOF)
	}
	return a, json.Unmarshal(g.out.Bytes(), &a)
}

// add has it know peers, and says how long it took.
func (g *gateway) add(peers []known) (time.Duration, error) {
	if err := json.NewEncoder(g.in).Encode(peers); err != nil {
		return 0, err
	}
	a, err := g.listen()
	return a.Took, err
}

func (g *gateway) at() netip.AddrPort { return netip.AddrPortFrom(loopback, g.Port) }

func (g *gateway) cost() (load.Cost, error) { return load.ReadCost(g.cmd.Process.Pid) }

func (g *gateway) close() {
	_ = g.in.Close()
	_ = g.cmd.Wait()
}
