package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// lifetime ends a lab that was forgotten.
const lifetime = 6 * time.Hour

// place is where a lab's socket and log are.
type place struct{ dir string }

func (p place) socket() string { return filepath.Join(p.dir, "socket") }
func (p place) log() string    { return filepath.Join(p.dir, "log") }

func (p place) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", p.socket())
	if err != nil {
		return nil, fmt.Errorf("no lab is up (%w); start one with: lab up", err)
	}
	return conn, nil
}

// ask has the holder of the lab do something, and returns its answer.
func (p place) ask(ctx context.Context, words []string) (string, error) {
	body, err := json.Marshal(words)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/do", strings.NewReader(string(body)))
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if failed := new(url.Error); errors.As(err, &failed) {
		err = failed.Err // the URL says nothing to the user
	}
	if err != nil {
		return "", err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(answer)))
		if res.StatusCode == http.StatusBadRequest {
			err = errUsage
		}
		return "", err
	}
	return string(answer), err
}

// holder is the process that a lab lives in.
type holder struct {
	lab  *vm.Lab
	down context.CancelFunc
}

// serve opens a lab and answers requests until it is told to end.
func serve(ctx context.Context, p place, args []string) error {
	specs, err := parseSpecs(args)
	if err != nil {
		return err
	}
	ctx, down := context.WithTimeout(ctx, lifetime)
	defer down()
	lab, err := vm.Open(ctx, vm.Config{Progress: os.Stderr})
	if err != nil {
		return err
	}
	h := &holder{lab: lab, down: down}
	return errors.Join(h.hold(ctx, p, specs), lab.Close())
}

func (h *holder) hold(ctx context.Context, p place, specs []vm.Spec) error {
	if _, err := h.lab.Start(ctx, specs...); err != nil {
		return err
	}
	if err := os.Remove(p.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", p.socket())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h.handler(), Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	context.AfterFunc(ctx, func() { _ = server.Shutdown(context.WithoutCancel(ctx)) })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// parseSpecs reads NAME[:MEMORY_MB[:DISK_GB]].
func parseSpecs(args []string) ([]vm.Spec, error) {
	if len(args) == 0 {
		args = []string{"array:2048", "worker1", "worker2"}
	}
	var specs []vm.Spec
	for _, arg := range args {
		words := strings.Split(arg, ":")
		numbers := make([]int, 0, 2)
		for _, word := range words[1:] {
			n, err := strconv.Atoi(word)
			if err != nil || n <= 0 || len(numbers) == 2 {
				return nil, fmt.Errorf("%s: a guest is NAME[:MEMORY_MB[:DISK_GB]]", arg)
			}
			numbers = append(numbers, n)
		}
		spec := vm.Spec{Name: words[0]}
		if len(numbers) > 0 {
			spec.MemoryMB = numbers[0]
		}
		if len(numbers) > 1 {
			spec.Disks = []vm.Disk{{Name: "data", Bytes: int64(numbers[1]) << 30}}
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func (h *holder) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/guest/{name}/", h.forward)
	mux.HandleFunc("POST /do", func(w http.ResponseWriter, r *http.Request) {
		var words []string
		if err := json.NewDecoder(r.Body).Decode(&words); err != nil || len(words) == 0 {
			http.Error(w, "words are missing", http.StatusBadRequest)
			return
		}
		answer, err := h.do(r.Context(), words[0], words[1:])
		switch {
		case errors.Is(err, errUsage):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			_, _ = io.WriteString(w, answer)
		}
	})
	return mux
}

// forward hands a request on to a guest's command channel.
func (h *holder) forward(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	guest, err := h.lab.Guest(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	proxy, err := guest.Proxy()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	http.StripPrefix("/guest/"+name, proxy).ServeHTTP(w, r)
}

func (h *holder) do(ctx context.Context, verb string, args []string) (string, error) {
	switch {
	case verb == "status" && len(args) == 0:
		return h.status(), nil
	case verb == "network" && len(args) == 0:
		return h.lab.Net.Path(), nil
	case verb == "down" && len(args) == 0:
		h.down()
		return "", nil
	case len(args) == 0:
		return "", errUsage
	}
	guest, err := h.lab.Guest(args[0])
	if err != nil {
		return "", err
	}
	switch {
	case verb == "kill" && len(args) == 1:
		return "", guest.Kill()
	case verb == "boot" && len(args) == 1:
		return "", guest.Boot(ctx)
	case verb == "restart" && len(args) == 1:
		return "", guest.Restart(ctx)
	case verb == "console" && len(args) == 1:
		return guest.Console()
	case (verb == "link" || verb == "loss") && len(args) == 3:
		return "", fault(ctx, guest, verb, args[1], args[2])
	}
	return "", errUsage
}

func fault(ctx context.Context, guest *vm.Guest, verb, network, value string) error {
	n, err := strconv.Atoi(network)
	if err != nil || n < 0 || n >= vm.Networks {
		return errUsage
	}
	if verb == "link" {
		if value != "up" && value != "down" {
			return errUsage
		}
		return guest.SetLink(ctx, n, value == "up")
	}
	percent, err := strconv.Atoi(value)
	if err != nil {
		return errUsage
	}
	return guest.SetLoss(ctx, n, percent)
}

func (h *holder) status() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "GUEST\tNETWORK 0\tNETWORK 1\tINITIATOR")
	for _, g := range h.lab.Guests() {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", g.Name, g.Addr(0), g.Addr(1), g.Initiator)
	}
	_, _ = fmt.Fprintf(table, "this host\t%s\t%s\n", h.lab.Net.HostAddr(0), h.lab.Net.HostAddr(1))
	_ = table.Flush() // to memory
	_, _ = fmt.Fprintf(&text, "logs: %s/*/\n", h.lab.Dir)
	return text.String()
}
