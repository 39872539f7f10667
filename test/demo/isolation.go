package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

func sameAddress(ctx context.Context, _ *demo, e *evidence) error {
	var asked []string
	for _, t := range optedIn {
		m, err := server(ctx, t)
		if err != nil {
			return err
		}
		url := urlOf(addressOf(m, 4))
		asked = append(asked, url)
		answers, said, err := get(ctx, t, "app-with-proxy", url)
		if err != nil || len(answers) != 1 {
			return fmt.Errorf("%s asked for its own %s: %w: %s", t, url, err, said)
		}
		e.add("%s asks for %s (by its SOCKS5 proxy) and is answered by its own %s", t, url, answers[0].Host)
		if answers[0].Host != m.Metadata.Name {
			return fmt.Errorf("%s was answered by %s, want %s", t, answers[0].Host, m.Metadata.Name)
		}
	}
	if asked[0] != asked[1] {
		return fmt.Errorf("the addresses differ: %v", asked)
	}
	return nil
}

func otherTenant(ctx context.Context, _ *demo, e *evidence) error {
	for _, pair := range [][2]string{{"acme", "globex"}, {"globex", "acme"}} {
		from, to := pair[0], pair[1]
		mine, err := server(ctx, from)
		if err != nil {
			return err
		}
		theirs, err := server(ctx, to)
		if err != nil {
			return err
		}
		// The control: the way that is refused below is open.
		answers, said, err := get(ctx, from, "app-with-proxy", urlOf(addressOf(mine, 6)))
		if err != nil || len(answers) != 1 {
			return fmt.Errorf("%s cannot reach its own %s: %w: %s", from, addressOf(mine, 6), err, said)
		}
		e.add("%s -> its own %s by SOCKS5: answered by %s", from, addressOf(mine, 6), answers[0].Host)
		answers, said, err = get(ctx, from, "app-with-proxy", urlOf(addressOf(theirs, 6)))
		e.add("%s -> %s's %s by SOCKS5: %s", from, to, addressOf(theirs, 6), reason(said))
		if err == nil || len(answers) > 0 || !strings.Contains(said, "not allowed") {
			return fmt.Errorf("%s was not refused %s's address", from, to)
		}
		for _, a := range []netip.Addr{addressOf(theirs, 6), addressOf(theirs, 4)} {
			answers, said, err = get(ctx, from, "app", "-timeout", "1s", urlOf(a))
			e.add("%s -> %s without the proxy, from the pod's network: %s", from, a, reason(said))
			if err == nil || len(answers) > 0 {
				return fmt.Errorf("%s is reached from the pod network", a)
			}
		}
	}
	return nil
}

// reason is what the client complained of, without what it asked for.
func reason(said string) string {
	if strings.Contains(said, "Client.Timeout") {
		return "no answer"
	}
	said = strings.ReplaceAll(said, "unknown error ", "") // net/http's word for a SOCKS reply
	if i := strings.LastIndex(said, ": "); i >= 0 {
		said = said[i+2:]
	}
	if i := strings.LastIndex(said, "connection not allowed"); i >= 0 {
		said = said[i:]
	}
	return "refused, " + said
}

// onTheWire sends one marker through acme's tunnel and another where nobody opted in, which proves that this very capture would
// have seen the first.
func onTheWire(ctx context.Context, d *demo, e *evidence) error {
	if state := os.Getenv("TW_STATE"); state == "" || os.Getenv("KUBECONFIG") != state+"/kubeconfig" {
		return fmt.Errorf("THE WIRE WAS NOT LOOKED AT: captures need root on the nodes, which only a cluster that test/cluster started gives us: %w", errSkipped)
	}
	dir, err := os.MkdirTemp("", "tenantwire-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	id := strconv.FormatUint(rand.Uint64(), 36)
	secret, plain := "acme-secret-"+id, "bystander-secret-"+id
	captures, err := captureNodes(ctx, d.scripts, dir)
	if err == nil {
		err = errors.Join(sendMarker(ctx, "acme", secret), sendMarker(ctx, "bystander", plain))
	}
	for _, c := range captures {
		err = errors.Join(err, c.stop())
	}
	if err != nil {
		return err
	}
	acme, err := countAll(captures, secret)
	if err != nil {
		return err
	}
	control, err := countAll(captures, plain)
	if err != nil {
		return err
	}
	e.add("captured on every interface of %d node(s): %d packets, of which %d are WireGuard data", len(captures), acme.Packets, acme.WireGuardData)
	e.add("%q, sent 10 times by acme's client and answered: in %d packets", secret, acme.Marker)
	e.add("%q, sent likewise where nobody opted in (the control): in %d packets", plain, control.Marker)
	switch {
	case control.Marker == 0:
		return errors.New("the capture does not see plaintext, so it proves nothing")
	case acme.WireGuardData == 0:
		return errors.New("there are no WireGuard packets")
	case acme.Marker > 0:
		return fmt.Errorf("plaintext on the wire: %v", acme.MarkerFlows)
	}
	return nil
}

// sendMarker sends a marker ten times as path and query, and has it back in the answer.
func sendMarker(ctx context.Context, tenant, marker string) error {
	answers, said, err := get(ctx, tenant, "app", "-n", "10", "http://web/"+marker+"?say="+marker)
	if err == nil && (len(answers) != 10 || answers[0].Body != marker) {
		err = errors.New("not all were answered")
	}
	if err != nil {
		return fmt.Errorf("%s's requests: %w: %s", tenant, err, said)
	}
	return nil
}
