package contender

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/tenantwire/tenantwire/bench/lab"
)

// localPort is where a relaying near end listens for the client.
var localPort = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port)

// The sidecar's static file, as far as the benchmark uses it. It is written as JSON, which is YAML too.
type (
	sidecarFile struct {
		Interface sidecarInterface `json:"interface"`
		Peers     []sidecarPeer    `json:"peers"`
		Forwards  []sidecarForward `json:"forwards,omitempty"`
		Expose    []sidecarExpose  `json:"expose,omitempty"`
	}
	sidecarInterface struct {
		PrivateKeyFile string   `json:"privateKeyFile"`
		Addresses      []string `json:"addresses"`
		ListenPort     int      `json:"listenPort"`
		MTU            int      `json:"mtu"`
		Datapath       string   `json:"datapath,omitempty"`
		Hub            bool     `json:"hub,omitempty"`
	}
	sidecarPeer struct {
		PublicKey  string   `json:"publicKey"`
		Outside    bool     `json:"outside,omitempty"`
		Endpoint   string   `json:"endpoint,omitempty"`
		AllowedIPs []string `json:"allowedIPs"`
	}
	sidecarForward struct {
		Listen   string   `json:"listen"`
		Protocol string   `json:"protocol"`
		Targets  []string `json:"targets"`
	}
	sidecarExpose struct {
		Port     int    `json:"port"`
		Protocol string `json:"protocol"`
	}
)

// sidecarConfig is an end's file. Netstack, the first datapath there was, is not named: the file may not know the field yet.
func (e *end) sidecarConfig(datapath, keyFile string) sidecarFile {
	f := sidecarFile{Interface: sidecarInterface{PrivateKeyFile: keyFile, ListenPort: int(e.port), MTU: mtu, Hub: e.hub,
		Addresses: []string{netip.PrefixFrom(e.self.inner(), 32).String()}}}
	if datapath != "Netstack" {
		f.Interface.Datapath = datapath
	}
	for _, p := range e.peers {
		out := sidecarPeer{PublicKey: p.public.String(), Outside: p.outside}
		if p.endpoint.IsValid() {
			out.Endpoint = p.endpoint.String()
		}
		for _, a := range p.allowed {
			out.AllowedIPs = append(out.AllowedIPs, a.String())
		}
		f.Peers = append(f.Peers, out)
	}
	if e.hub {
		return f
	}
	for _, protocol := range []string{"TCP", "UDP"} {
		if e.near {
			f.Forwards = append(f.Forwards, sidecarForward{e.way.String(), protocol, []string{e.far.String()}})
		} else {
			f.Expose = append(f.Expose, sidecarExpose{Port, protocol})
		}
	}
	return f
}

func startSidecar(datapath string) func(*end) (running, error) {
	return func(e *end) (running, error) {
		user := uint32(lab.Nobody)
		if datapath != "Netstack" {
			user = 0
		}
		keyFile, err := e.file("key", e.self.private.Reveal()+"\n", user)
		if err != nil {
			return running{}, err
		}
		text, err := jsonText(e.sidecarConfig(datapath, keyFile))
		if err != nil {
			return running{}, err
		}
		path, err := e.file("sidecar.yaml", text, user)
		if err != nil {
			return running{}, err
		}
		p := lab.Program{Path: e.setup.Programs.Sidecar, Args: []string{"--config", path, "--log-level", "error"}, User: user, Place: e.place,
			Env: e.setup.Env}
		if e.near && e.setup.Profile {
			p.User, p.Path, p.Args = 0, e.setup.Programs.SidecarProf, []string{"-config", path, "-pprof", Socket(e.setup.Dir)}
			if err := os.Remove(Socket(e.setup.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return running{}, err
			}
		}
		process, err := e.host.Start(p, nil)
		r := running{process: process, tcp: e.way.String(), udp: e.way.String()}
		if datapath != "Netstack" { // the pod has an interface: nobody needs a forward
			r.tcp, r.udp = e.far.String(), e.far.String()
		}
		return r, err
	}
}

// Socket is where a profiled sidecar serves its profiles.
func Socket(dir string) string { return filepath.Join(dir, "pprof.sock") }

func startStock(e *end) (running, error) {
	type stockPeer struct {
		PublicKey, Endpoint string
		AllowedIPs          []netip.Prefix
	}
	type forward struct{ Listen, Target netip.AddrPort }
	type expose struct {
		Port uint16
		To   netip.AddrPort
	}
	c := struct {
		PrivateKey string
		ListenPort uint16
		Address    netip.Addr
		MTU        int
		Peers      []stockPeer
		Forwards   []forward `json:",omitempty"`
		Expose     []expose  `json:",omitempty"`
	}{PrivateKey: e.self.private.Reveal(), ListenPort: outerPort, Address: e.self.inner(), MTU: mtu}
	for _, p := range e.peers {
		out := stockPeer{PublicKey: p.public.String(), AllowedIPs: p.allowed}
		if p.endpoint.IsValid() {
			out.Endpoint = p.endpoint.String()
		}
		c.Peers = append(c.Peers, out)
	}
	if e.near {
		c.Forwards = []forward{{localPort, e.far}}
	} else {
		c.Expose = []expose{{Port, localPort}}
	}
	text, err := jsonText(c)
	if err != nil {
		return running{}, err
	}
	return e.startRelay(e.setup.Programs.Stock, "stock.json", text, "-config")
}

// startRelay runs another's program that relays TCP, as an ordinary user; its last argument is the file that holds text.
func (e *end) startRelay(program, file, text string, args ...string) (running, error) {
	path, err := e.file(file, text, lab.Nobody)
	if err != nil {
		return running{}, err
	}
	process, err := e.host.Start(lab.Program{Path: program, Args: append(args, path), User: lab.Nobody, Place: e.place}, nil)
	return running{process: process, tcp: localPort.String()}, err
}

// startSingBox has a netstack of its own. What comes to its inner address it takes to loopback by itself.
func startSingBox(e *end) (running, error) {
	type object = map[string]any
	var peers []object
	for _, p := range e.peers {
		out := object{"public_key": p.public.String(), "allowed_ips": p.allowed}
		if p.endpoint.IsValid() {
			out["address"], out["port"] = p.endpoint.Addr(), p.endpoint.Port()
		}
		peers = append(peers, out)
	}
	tunnel := object{"type": "wireguard", "tag": "tunnel", "mtu": mtu, "address": []string{e.self.inner().String() + "/32"},
		"private_key": e.self.private.Reveal(), "listen_port": outerPort, "peers": peers}
	c := object{"log": object{"level": "error"}, "endpoints": []object{tunnel}, "outbounds": []object{{"type": "direct", "tag": "direct"}},
		"route": object{"final": "direct"}}
	if e.near {
		c["inbounds"] = []object{{"type": "direct", "tag": "client", "listen": localPort.Addr(), "listen_port": localPort.Port(),
			"override_address": e.far.Addr(), "override_port": e.far.Port()}}
		c["route"] = object{"final": "tunnel"}
	}
	text, err := jsonText(c)
	if err != nil {
		return running{}, err
	}
	return e.startRelay(e.setup.Programs.SingBox, "sing-box.json", text, "run", "-c")
}

func startWireproxy(e *end) (running, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nAddress = %s/32\nMTU = %d\nListenPort = %d\nPrivateKey = %s\n", e.self.inner(), mtu, outerPort, e.self.private.Reveal())
	for _, p := range e.peers {
		fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\n", p.public)
		if p.endpoint.IsValid() {
			fmt.Fprintf(&b, "Endpoint = %s\n", p.endpoint)
		}
		for i, a := range p.allowed {
			fmt.Fprintf(&b, "%s%s", map[bool]string{true: "AllowedIPs = ", false: ", "}[i == 0], a)
		}
		b.WriteByte('\n')
	}
	if e.near {
		fmt.Fprintf(&b, "\n[TCPClientTunnel]\nBindAddress = %s\nTarget = %s\n", localPort, e.far)
	} else {
		fmt.Fprintf(&b, "\n[TCPServerTunnel]\nListenPort = %d\nTarget = %s\n", Port, localPort)
	}
	return e.startRelay(e.setup.Programs.Wireproxy, "wireproxy.conf", b.String(), "-s", "-c")
}

// startWireguardGo runs upstream on a TUN device, configured through its socket, which all namespaces see: hence unique names.
func startWireguardGo(e *end) (running, error) {
	name := lab.Unique("twb")
	socket := "/var/run/wireguard/" + name + ".sock"
	process, err := e.host.Start(lab.Program{Path: e.setup.Programs.WireguardGo, Args: []string{"-f", name}, Place: e.place}, nil)
	if err != nil {
		return running{}, err
	}
	e.lab.Defer(func() error { _ = os.Remove(socket); return nil }) // it ends by SIGKILL and leaves it behind
	if err := lab.Until("socket of wireguard-go", patience, func() error { _, err := os.Stat(socket); return errors.Join(err, process.Running()) }); err != nil {
		return running{}, err
	}
	if err := e.configure(name); err != nil {
		return running{}, fmt.Errorf("configure wireguard-go: %w", err)
	}
	if err := e.host.AddAddress(name, netip.PrefixFrom(e.self.inner(), 24)); err != nil {
		return running{}, err
	}
	return running{process, e.far.String(), e.far.String()}, e.host.Up(name)
}

func (e *end) configure(name string) error {
	c, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer c.Close()
	private, err := wgtypes.ParseKey(e.self.private.Reveal())
	if err != nil {
		return err
	}
	port := int(e.port)
	cfg := wgtypes.Config{PrivateKey: &private, ListenPort: &port}
	for _, p := range e.peers {
		out := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.public)}
		if p.endpoint.IsValid() {
			out.Endpoint = udpAddr(p.endpoint)
		}
		for _, a := range p.allowed {
			out.AllowedIPs = append(out.AllowedIPs, ipNet(a))
		}
		cfg.Peers = append(cfg.Peers, out)
	}
	return lab.Until("socket answers", 5*time.Second, func() error { return c.ConfigureDevice(name, cfg) })
}

func jsonText(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", " ")
	return string(b), err
}
