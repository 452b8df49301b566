//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// served is a server that runs.
type served struct {
	*process
	name    string
	address string
	ops     string // address of its state, of our server
	cgroup  *cgroup
}

// place is where a server runs.
type place struct {
	address  string // HOST:PORT
	netns    string // may be empty
	pod      bool   // with the default limits, and with sync beside it
	operator string // URL from which sync takes the plugins; may be empty
}

// ours starts the plugin server on a volume.
func (b *bench) ours(name, volume string, at place) (*served, error) {
	var l limits
	if at.pod {
		l = defaults
	}
	group, err := b.newCgroup(name, l)
	if err != nil {
		return nil, err
	}
	argv := []string{b.server, "serve", "--data-dir=" + volume, "--listen=" + at.address, "--ops-listen=127.0.0.1:0", "--drain-delay=0s", "--grace=5s"}
	if at.pod {
		argv = append(argv, "--", "sync", "--data-dir="+volume, "--catalog="+filepath.Join(b.dir, "none"),
			"--operator-url="+cmp.Or(at.operator, "http://127.0.0.1:1"), "--server="+benchServer)
	}
	c := command{Argv: argv, CPU: b.serverCPU, Cgroup: group.folders(), Netns: at.netns}
	p, err := b.start(c, filepath.Join(b.dir, name+".log"), nil, nil)
	if err != nil {
		return nil, err
	}
	const serving = `"msg":"serving"`
	if err := p.says(serving, 30*time.Second); err != nil {
		return nil, err
	}
	said, err := os.ReadFile(p.log)
	_, rest, _ := strings.Cut(string(said), serving)
	_, rest, _ = strings.Cut(rest, `"ops":"`)
	ops, _, _ := strings.Cut(rest, `"`)
	return &served{p, name, at.address, ops, group}, err
}

// findNginx gives the machine's nginx, or else the one of the cluster's parts.
func (b *bench) findNginx() (string, error) {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path, nil
	}
	b.say("fetching nginx")
	if output, err := exec.Command("go", "run", "./hack/cluster", "build", "debian").CombinedOutput(); err != nil {
		return "", fmt.Errorf("nginx is needed, and could not be fetched: %w\n%s", err, output)
	}
	path, err := exec.Command("go", "run", "./hack/cluster", "which", "nginx").Output()
	if err != nil {
		return "", fmt.Errorf("find nginx among the cluster's parts: %w", err)
	}
	return strings.TrimSpace(string(path)), nil
}

// nginxConfig serves the same volume at the same paths. Its log is as ours: one
// line of JSON a request, with the same fields, written at once.
const nginxConfig = `user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log DIR/nginx-error.log warn;
events { worker_connections 8192; }
http {
	types {}
	default_type application/wasm;
	sendfile on;
	tcp_nopush on;
	tcp_nodelay on;
	keepalive_timeout 120s;
	keepalive_requests 100000000;
	gzip_static on;
	log_format json escape=json '{"time":"$time_iso8601","level":"INFO","msg":"request","method":"$request_method","path":"$uri",'
		'"status":$status,"bytes":$body_bytes_sent,"duration":"$request_time","remote":"$remote_addr:$remote_port","agent":"$http_user_agent"}';
	access_log DIR/nginx-access.log json;
	client_body_temp_path DIR/nginx-body;
	proxy_temp_path DIR/nginx-proxy;
	fastcgi_temp_path DIR/nginx-fastcgi;
	uwsgi_temp_path DIR/nginx-uwsgi;
	scgi_temp_path DIR/nginx-scgi;
	server {
		listen ADDRESS backlog=4096;
		location /plugins/ { root VOLUME; }
	}
}
`

// startNginx starts nginx on a volume.
func (b *bench) startNginx(volume, address string) (*served, error) {
	group, err := b.newCgroup("nginx", limits{})
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "nginx.conf")
	text := strings.NewReplacer("DIR", b.dir, "ADDRESS", address, "VOLUME", volume).Replace(nginxConfig)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	argv := []string{b.nginx, "-c", config, "-e", filepath.Join(b.dir, "nginx-error.log"), "-g", "daemon off;"}
	p, err := b.start(command{Argv: argv, CPU: b.serverCPU, Cgroup: group.folders()}, filepath.Join(b.dir, "nginx.log"), nil, nil)
	if err != nil {
		return nil, err
	}
	for range 500 {
		if conn, err := net.Dial("tcp", address); err == nil {
			return &served{process: p, name: "nginx", address: address, cgroup: group}, conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("nginx does not listen")
}

// run lets a client work on its processor, in a network namespace or not.
func (b *bench) run(l load, netns string) (loaded, error) {
	in, err := json.Marshal(l)
	if err != nil {
		return loaded{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return loaded{}, err
	}
	var out bytes.Buffer
	log := filepath.Join(b.dir, "load.log")
	p, err := b.start(command{Argv: []string{self, "__load"}, CPU: b.clientCPU, Netns: netns}, log, in, &out)
	if err != nil {
		return loaded{}, err
	}
	<-p.ended
	if p.failed != nil {
		said, _ := os.ReadFile(log)
		return loaded{}, fmt.Errorf("the client: %w: %s", p.failed, said)
	}
	var result loaded
	return result, json.Unmarshal(out.Bytes(), &result)
}

// freePort gives HOST:PORT on which nobody listens now.
func freePort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
