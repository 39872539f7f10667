package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/auto"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// file is the configuration of a sidecar without a cluster. Paths are relative to the file's folder.
type file struct {
	Interface struct {
		PrivateKeyFile scalar   `yaml:"privateKeyFile"`
		Addresses      []scalar `yaml:"addresses"`
		ListenPort     scalar   `yaml:"listenPort"` // 0: any
		MTU            scalar   `yaml:"mtu"`        // 0: 1420
		Datapath       scalar   `yaml:"datapath"`   // Auto, Kernel, TUN or Netstack
		Hub            scalar   `yaml:"hub"`        // true or false
	} `yaml:"interface"`
	Peers    []filePeer    `yaml:"peers"`
	DNS      []fileZone    `yaml:"dns"`
	Forwards []fileForward `yaml:"forwards"`
	Expose   []fileExpose  `yaml:"expose"`
	Proxies  struct {
		SOCKS5      scalar `yaml:"socks5"`
		HTTPConnect scalar `yaml:"httpConnect"`
	} `yaml:"proxies"`
	Health scalar `yaml:"health"`
}

type filePeer struct {
	PublicKey        scalar   `yaml:"publicKey"`
	PresharedKeyFile scalar   `yaml:"presharedKeyFile"`
	Endpoint         scalar   `yaml:"endpoint"`
	AllowedIPs       []scalar `yaml:"allowedIPs"`
	Keepalive        scalar   `yaml:"keepalive"`
	Outside          scalar   `yaml:"outside"` // true or false
}

type fileForward struct {
	Listen   scalar   `yaml:"listen"`
	Protocol scalar   `yaml:"protocol"`
	Targets  []scalar `yaml:"targets"`
	Host     scalar   `yaml:"host"` // HOST:PORT in a zone of dns, in place of targets
}

type fileExpose struct {
	Port     scalar `yaml:"port"`
	Protocol scalar `yaml:"protocol"`
	To       scalar `yaml:"to"` // default 127.0.0.1:port
}

// static is a parsed file with everything it refers to.
type static struct {
	private    key.Private
	listenPort uint16
	datapath   string
	health     string
	desired    desired
	hosts      map[int]fileHost // by the index of the forward
}

// readStatic reads and checks a file whole; nothing is applied before all of it is known to be good.
func readStatic(path string) (*static, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	s, err := parseStatic(f, func(name string) (string, error) { return readSecret(filepath.Dir(path), name) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// maxSecret bounds a key file in bytes: a key has 44, and whoever keeps comments beside it has the wrong file.
const maxSecret = 256

// tooOpen says whether others may use a secret file. A group may read one of root's: that is how Kubernetes gives a Secret to a pod
// that is not root (fsGroup), and nobody but root can have made it so.
func tooOpen(f fs.FileInfo) bool {
	others := fs.FileMode(0o077)
	if ownedByRoot(f) {
		others = 0o037
	}
	return f.Mode().Perm()&others != 0
}

// readSecret reads a key file that nobody else can read. Its errors do not say the file's name.
func readSecret(dir, name string) (string, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	st, err := os.Stat(name) // before opening: opening a pipe would wait
	if err != nil {
		return "", bare(err)
	}
	if !st.Mode().IsRegular() {
		return "", errors.New("not a file")
	}
	if tooOpen(st) {
		return "", fmt.Errorf("mode %#o lets others read the key, want 0600", st.Mode().Perm())
	}
	f, err := os.Open(name)
	if err != nil {
		return "", bare(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return string(b), bare(err)
}

// bare takes the file's name from an error.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// secretError names a key file, unless its name may be the key itself: that is the mistake to make here.
func secretError(name scalar, err error) error {
	text := strings.TrimRight(strings.TrimSpace(string(name)), "=")
	if _, not64 := base64.RawStdEncoding.DecodeString(text); not64 == nil && len(text) >= 40 {
		return fmt.Errorf("%w (the value is left out because it looks like a key: want the name of a file that holds it)", err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// parseStatic turns text into a checked configuration; secret reads a key file.
func parseStatic(r io.Reader, secret func(name string) (string, error)) (*static, error) {
	var f file
	if err := decodeFile(r, &f); err != nil {
		return nil, err
	}
	s := &static{}
	var err error
	if s.private, err = f.privateKey(secret); err != nil {
		return nil, err
	}
	if s.listenPort, err = f.Interface.ListenPort.port(0); err != nil {
		return nil, fmt.Errorf("interface.listenPort: %w", err)
	}
	if s.datapath, err = f.datapath(); err != nil {
		return nil, err
	}
	if s.desired.iface, err = f.iface(); err != nil {
		return nil, err
	}
	if err := f.peers(s, secret); err != nil {
		return nil, err
	}
	if err := s.desired.checkHub(); err != nil {
		return nil, err
	}
	if err := f.dns(s); err != nil {
		return nil, err
	}
	if err := f.relay(s); err != nil {
		return nil, err
	}
	return s, nil
}

func (f *file) privateKey(secret func(string) (string, error)) (key.Private, error) {
	name := f.Interface.PrivateKeyFile
	if name == "" {
		return key.Private{}, errors.New("interface.privateKeyFile: missing; make one with: wg genkey")
	}
	text, err := secret(string(name))
	if err == nil {
		var k key.Private
		if k, err = key.ParsePrivate(text); err == nil {
			return k, nil
		}
	}
	return key.Private{}, fmt.Errorf("interface.privateKeyFile: %w", secretError(name, err))
}

// datapath is Netstack unless the file says otherwise: a file that asks for nothing of the kind must not give the machine an interface,
// routes and rules, whoever runs it.
func (f *file) datapath() (string, error) {
	choice := string(f.Interface.Datapath)
	if choice == "" {
		return string(datapath.Netstack), nil
	}
	if err := auto.Check(choice); err != nil {
		return "", fmt.Errorf("interface.datapath: %w", err)
	}
	return choice, nil
}

func (f *file) iface() (datapath.Interface, error) {
	i := datapath.Interface{MTU: 1420}
	var err error
	if i.Hub, err = f.Interface.Hub.boolean(); err != nil {
		return i, fmt.Errorf("interface.hub: %w", err)
	}
	if m := f.Interface.MTU; m != "" && m != "0" {
		n, err := strconv.Atoi(string(m))
		if err != nil || n < wire.MinMTU || n > wire.MaxMTU {
			return i, fmt.Errorf("interface.mtu: %s is not 0 or %d to %d", m, wire.MinMTU, wire.MaxMTU)
		}
		i.MTU = n
	}
	if len(f.Interface.Addresses) == 0 {
		return i, errors.New("interface.addresses: empty, want at least one, like 10.7.0.2/32")
	}
	for n, text := range f.Interface.Addresses {
		p, err := text.prefix()
		if err != nil {
			return i, fmt.Errorf("interface.addresses[%d]: %w", n, err)
		}
		// The prefix length of wg-quick's form has no meaning here: what a peer may use is said by its allowedIPs.
		i.Addresses = append(i.Addresses, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		if err := i.Validate(); err != nil {
			return i, fmt.Errorf("interface.addresses[%d]: %s: %w", n, text, err)
		}
	}
	return i, nil
}

func (f *file) peers(s *static, secret func(string) (string, error)) error {
	s.desired.peers, s.desired.names = make(map[key.Public]datapath.Peer, len(f.Peers)), map[key.Public]string{}
	self := s.private.Public()
	owner := map[netip.Prefix]int{}
	for _, a := range s.desired.iface.Addresses {
		owner[a] = -1
	}
	for i, p := range f.Peers {
		peer, name, err := p.parse(secret)
		if err != nil {
			return fmt.Errorf("peers[%d].%w", i, err)
		}
		if _, twice := s.desired.peers[peer.PublicKey]; twice {
			return fmt.Errorf("peers[%d].publicKey: %s is that of an earlier peer", i, peer.PublicKey)
		}
		if peer.PublicKey == self {
			return fmt.Errorf("peers[%d].publicKey: %s is our own, want the other end's", i, peer.PublicKey)
		}
		for j, a := range peer.AllowedIPs {
			other, taken := owner[a]
			if taken && other < 0 {
				return fmt.Errorf("peers[%d].allowedIPs[%d]: %s is our own address, want the other end's", i, j, a)
			}
			if taken {
				return fmt.Errorf("peers[%d].allowedIPs[%d]: %s is listed in peers[%d] already, want it once", i, j, a, other)
			}
			owner[a] = i
		}
		s.desired.peers[peer.PublicKey] = peer
		if name != "" {
			s.desired.names[peer.PublicKey] = name
		}
	}
	return nil
}

// checkHub refuses what says that something was misunderstood.
func (d *desired) checkHub() error {
	outside := 0
	for _, p := range d.peers {
		if p.Outside {
			outside++
		}
	}
	switch {
	case d.iface.Hub && (outside == 0 || outside == len(d.peers)):
		return fmt.Errorf("interface.hub: %d of %d peers have outside: true, so that nothing could be passed on; want some with and some without", outside, len(d.peers))
	case !d.iface.Hub && outside > 0:
		return errors.New("peers[].outside: has no meaning without interface.hub: true")
	}
	return nil
}

// parse reads a peer; name is its endpoint where that has to be looked up.
func (p *filePeer) parse(secret func(string) (string, error)) (peer datapath.Peer, name string, err error) {
	if peer.PublicKey, err = key.ParsePublic(string(p.PublicKey)); err != nil {
		return peer, "", fmt.Errorf("publicKey: %s is not a public key: want 32 bytes in base64 (44 characters), as wg pubkey prints", p.PublicKey)
	}
	if p.PresharedKeyFile != "" {
		text, err := secret(string(p.PresharedKeyFile))
		if err == nil {
			peer.PresharedKey, err = key.ParsePreshared(text)
		}
		if err != nil {
			return peer, "", fmt.Errorf("presharedKeyFile: %w", secretError(p.PresharedKeyFile, err))
		}
	}
	if peer.Endpoint, name, err = p.Endpoint.endpoint(); err != nil {
		return peer, "", fmt.Errorf("endpoint: %w", err)
	}
	if peer.Outside, err = p.Outside.boolean(); err != nil {
		return peer, "", fmt.Errorf("outside: %w", err)
	}
	if peer.Keepalive, err = p.Keepalive.seconds(); err != nil {
		return peer, "", fmt.Errorf("keepalive: %w", err)
	}
	if len(p.AllowedIPs) == 0 {
		return peer, "", errors.New("allowedIPs: empty, want the inner addresses that the peer may use, like 10.7.0.1/32")
	}
	for i, text := range p.AllowedIPs {
		a, err := text.prefix()
		if err != nil {
			return peer, "", fmt.Errorf("allowedIPs[%d]: %w", i, err)
		}
		if a != a.Masked() {
			return peer, "", fmt.Errorf("allowedIPs[%d]: %s has host bits, want %s", i, text, a.Masked())
		}
		peer.AllowedIPs = append(peer.AllowedIPs, a)
	}
	return peer, name, nil
}

// reaches says whether a peer owns an inner address.
func (d *desired) reaches(to netip.Addr) bool {
	for _, p := range d.peers {
		for _, a := range p.AllowedIPs {
			if a.Contains(to) {
				return true
			}
		}
	}
	return false
}

func parseProtocol(s scalar) (relay.Protocol, error) {
	switch s {
	case "", "TCP":
		return relay.TCP, nil
	case "UDP":
		return relay.UDP, nil
	}
	return "", fmt.Errorf("%s is not TCP or UDP", s)
}
