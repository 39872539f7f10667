// Command workload is an ordinary application, as a tenant may run it: servers, clients and measurements over TCP, UDP
// and HTTP. It knows nothing of what network it is on, retries nothing, needs no privilege and writes no file.
//
//	workload serve ROLE=ADDRESS...   roles: http tcp-echo udp-echo sink half-close reset dns; "serve" alone is http=:8080
//	workload get [-n N] [-interval D] [-timeout D] [-proxy URL] URL...    one line for each request
//	workload get -every D [-timeout D] URL     begins a request so often, without waiting for those before: BEGAN MILLISECONDS OK|ERR
//	workload download URL                      reads a body and tells its length and hash (http role: /download?bytes=N)
//	workload upload URL N                      posts N bytes and compares the hash (http role: /upload)
//	workload send ADDRESS N                    sends N bytes to a sink, half-closes and compares the hash it answers
//	workload half-close ADDRESS N              the server closes its direction first, then gets N bytes all the same
//	workload reset ADDRESS                     the server resets the connection; succeeds when that is what is seen
//	workload tcp-ping|udp-ping [-interval D] [-duration D] [-size N] [-gaps D] ADDRESS     echoes on one socket: loss, gaps, times
//	workload dns-set ADDRESS NAME [IP...]      tells a server of the role dns what a name is from now on
//	workload lookup [-server ADDRESS] NAME...   workload sleep [DURATION]   workload exit [CODE]
//	workload runner                            reads lines {"id":N,"args":[...]} and answers each with how that command ended
//
// Clients print one line of JSON (get: one of text for each request) and exit 1 when what they did failed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// errReported ends the program with status 1 without a further message.
var errReported = errors.New("failed")

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 0 {
		args = []string{"serve"}
	}
	var code exitCode
	err := command(ctx, args[0], args[1:])
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case !errors.Is(err, errReported):
		fmt.Fprintf(os.Stderr, "workload %s: %v\n", args[0], err)
	}
	return 1
}

func command(ctx context.Context, name string, args []string) error {
	switch name {
	case "serve":
		return serve(ctx, args)
	case "get":
		return get(ctx, args)
	case "download":
		return download(ctx, args)
	case "upload":
		return upload(ctx, args)
	case "send":
		return send(ctx, args)
	case "half-close":
		return halfClose(ctx, args)
	case "reset":
		return expectReset(ctx, args)
	case "tcp-ping":
		return ping(ctx, "tcp", args)
	case "udp-ping":
		return ping(ctx, "udp", args)
	case "dns-set":
		return setNames(ctx, args)
	case "lookup":
		return lookup(ctx, args)
	case "sleep":
		return sleep(ctx, args)
	case "exit":
		return exit(args)
	case "runner":
		return runner(ctx, os.Stdin, os.Stdout)
	}
	return fmt.Errorf("unknown command; see the comment at the top of its source")
}

type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

func exit(args []string) error {
	if len(args) == 0 {
		return nil
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n == 0 {
		return err
	}
	return exitCode(n)
}

func sleep(ctx context.Context, args []string) error {
	if len(args) == 0 {
		<-ctx.Done()
		return nil
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

func lookup(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("lookup", flag.ContinueOnError)
	server := f.String("server", "", "address and port of the name server, instead of the system's")
	if err := f.Parse(args); err != nil {
		return err
	}
	r := net.DefaultResolver
	if *server != "" {
		r = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, *server)
		}}
	}
	var failed error
	for _, n := range f.Args() {
		addresses, err := r.LookupHost(ctx, n)
		if err != nil {
			failed = errReported
		}
		printJSON(map[string]any{"name": n, "addresses": addresses, "error": errorString(err)})
	}
	return failed
}

func printJSON(v any) { _ = json.NewEncoder(os.Stdout).Encode(v) }

func errorString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
