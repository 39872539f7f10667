package contender

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/tenantwire/tenantwire/bench/lab"
)

// Where tailscaled's control server is, at the far host, and where its near end takes connections into the tunnel.
const (
	tailnetPort = 7010
	socksPort   = 1080
)

// startTailscaled runs tailscaled without a TUN device. The far end, which comes first, brings the control server along; what comes to
// its inner address it takes to loopback by itself. The near end is there once it has a way to the far one that is no relay's.
func startTailscaled(e *end) (running, error) {
	if !e.near {
		return e.farTailscaled()
	}
	control := netip.AddrPortFrom(e.peers[0].endpoint.Addr(), tailnetPort)
	nodes, err := e.nodes(control)
	if err != nil {
		return running{}, err
	}
	process, socket, err := e.tailscaled(control)
	if err != nil {
		return running{}, err
	}
	if err := lab.Until("reach its peer directly", patience, func() error { return errors.Join(ping(socket, nodes[0]), process.Running()) }); err != nil {
		return running{}, fmt.Errorf("%w; it said: %s", err, process.Said())
	}
	return running{process: process, tcp: fmt.Sprintf("socks5://127.0.0.1:%d/%s:%d", socksPort, nodes[0], Port)}, nil
}

func (e *end) farTailscaled() (running, error) {
	control := netip.AddrPortFrom(e.self.outer(), tailnetPort)
	server, err := e.host.Start(lab.Program{Path: e.setup.Programs.Tailnet, Args: []string{"-address", control.String()}}, nil)
	if err != nil {
		return running{}, err
	}
	answers := func() error { _, err := e.nodes(control); return errors.Join(err, server.Running()) }
	if err := lab.Until("control server answers", patience, answers); err != nil {
		return running{}, err
	}
	process, _, err := e.tailscaled(control)
	if err != nil {
		return running{}, err
	}
	joined := func() error {
		nodes, err := e.nodes(control)
		if err == nil && len(nodes) == 0 {
			err = errors.New("nobody is there")
		}
		return errors.Join(err, process.Running(), server.Running())
	}
	if err := lab.Until("join the tailnet", patience, joined); err != nil {
		return running{}, fmt.Errorf("%w; it said: %s", err, process.Said())
	}
	return running{process: process}, nil
}

// tailscaled starts it with the MTU that all others have, and answers where it takes commands.
func (e *end) tailscaled(control netip.AddrPort) (p *lab.Process, socket string, err error) {
	text, err := jsonText(map[string]any{"version": "alpha0", "serverURL": "http://" + control.String(), "authKey": "none",
		"hostname": map[bool]string{true: "near", false: "far"}[e.near], "acceptDNS": false})
	if err != nil {
		return nil, "", err
	}
	path, err := e.file("tailscaled.json", text, lab.Nobody)
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Dir(path)
	if err := os.Chown(dir, lab.Nobody, lab.Nobody); err != nil { // for its socket
		return nil, "", err
	}
	socket = filepath.Join(dir, "socket")
	p, err = e.host.Start(lab.Program{Path: e.setup.Programs.Tailscaled, User: lab.Nobody, Place: e.place,
		Env: []string{"HOME=" + dir, fmt.Sprintf("TS_DEBUG_MTU=%d", mtu)}, Args: []string{
			"--tun=userspace-networking", "--state=mem:", "--socket=" + socket, fmt.Sprintf("--port=%d", outerPort),
			"--config=" + path, "--no-logs-no-support", fmt.Sprintf("--socks5-server=127.0.0.1:%d", socksPort)}}, nil)
	return p, socket, err
}

// ping has tailscaled look for a peer; a way through a relay is an error.
func ping(socket, peer string) error {
	web := lab.SocketClient(socket)
	web.Timeout = 2 * time.Second
	resp, err := web.Post("http://local-tailscaled.sock/localapi/v0/ping?type=disco&ip="+peer, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Err, Endpoint string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Endpoint == "" {
		return fmt.Errorf("no direct way: %q", answer.Err)
	}
	return nil
}

// nodes asks the control server for the inner addresses of those that joined, in that order. It is asked from within the end's host,
// so all of it must happen on one goroutine.
func (e *end) nodes(control netip.AddrPort) (out []string, err error) {
	e.host.Do(func() { out, err = askNodes(control.String()) })
	return out, err
}

func askNodes(control string) (out []string, err error) {
	c, err := net.DialTimeout("tcp", control, time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	req, err := http.NewRequest(http.MethodGet, "http://"+control+"/nodes", http.NoBody)
	if err != nil {
		return nil, err
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&out)
	return out, err
}
