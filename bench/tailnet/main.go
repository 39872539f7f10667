// Command tailnet is what tailscaled needs to find another: a control server that lets everybody in, and a relay to meet at, both from
// Tailscale's own tests. It is a module of its own, built only where the benchmark is given a tailscaled, as it needs much that
// nothing else here does.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

func main() {
	address := flag.String("address", "", "IP address and port of the control server; the relay and STUN have the next port")
	flag.Parse()
	if err := run(*address); err != nil {
		fmt.Fprintln(os.Stderr, "tailnet:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("-address: %w", err)
	}
	relay := netip.AddrPortFrom(at.Addr(), at.Port()+1)
	if err := serveRelay(relay); err != nil {
		return err
	}
	stun := stunserver.New(context.Background())
	if err := stun.Listen(relay.String()); err != nil {
		return err
	}
	go func() { _ = stun.Serve() }()
	control := &testcontrol.Server{ExplicitBaseURL: "http://" + at.String(), DERPMap: relays(relay), AllNodesSameUser: true, AllOnline: true, Logf: quiet}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(addresses(control)) })
	mux.Handle("/", control)
	return http.ListenAndServe(at.String(), mux)
}

func quiet(string, ...any) {}

// serveRelay serves where nodes meet that do not know a way to each other yet. What stands beside it, STUN, tells them that UDP works.
func serveRelay(at netip.AddrPort) error {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	s := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), quiet)))
	_ = s.Listener.Close()
	s.Listener = l
	s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // a relay takes connections over: no HTTP/2
	s.StartTLS()
	return nil
}

func relays(at netip.AddrPort) *tailcfg.DERPMap {
	node := &tailcfg.DERPNode{Name: "1", RegionID: 1, HostName: at.Addr().String(), IPv4: at.Addr().String(), IPv6: "none",
		DERPPort: int(at.Port()), STUNPort: int(at.Port()), InsecureForTests: true}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {RegionID: 1, RegionCode: "bench", Nodes: []*tailcfg.DERPNode{node}}}}
}

// addresses are those of the nodes inside the tailnet, in the order in which they joined.
func addresses(s *testcontrol.Server) []string {
	nodes := s.AllNodes()
	slices.SortFunc(nodes, func(a, b *tailcfg.Node) int { return cmp.Compare(a.ID, b.ID) })
	out := []string{}
	for _, n := range nodes {
		out = append(out, n.Addresses[0].Addr().String())
	}
	return out
}
