/* The console: what is refused, a page that is fetched, a client that hangs up while it is
 * being sent to (which must not end the host by SIGPIPE), a child after fork(). */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int ask(int port, const char *path) {
  struct sockaddr_in to = {0};
  char request[256];
  int s = socket(AF_INET, SOCK_STREAM, 0);
  to.sin_family = AF_INET;
  to.sin_port = htons((uint16_t)port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0);
  snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
  CHECK(write(s, request, strlen(request)) == (ssize_t)strlen(request));
  return s;
}

static void fetch(int port, const char *path, char *text, size_t capacity) {
  size_t have = 0;
  ssize_t n;
  int s = ask(port, path);
  while (have + 1 < capacity && (n = read(s, text + have, capacity - 1 - have)) > 0) have += (size_t)n;
  text[have] = 0;
  close(s);
}

int main(void) {
  static char text[1 << 20];
  static const char run[] = "{\"kind\":\"run\",\"schema\":1,\"id\":\"a run from C\",\"meter\":{\"source\":\"none\"}}";
  static const char power[] = "{\"kind\":\"power\",\"t\":1,\"devices\":[]}";
  gmoe_monitor_options options = GMOE_MONITOR_OPTIONS_INIT;
  gmoe_monitor_file_options file = GMOE_MONITOR_FILE_OPTIONS_INIT;
  gmoe_monitor *monitor = NULL, *other = NULL;
  size_t needed = 0;
  int port, status, hanging, i;
  pid_t child;

  options.address = "0.0.0.0:0";
  FAILS(gmoe_monitor_start(&options, &monitor), GMOE_INVALID_ARGUMENT, "allow_remote");
  CHECK(monitor == NULL);
  options.allow_remote = 1;
  FAILS(gmoe_monitor_start(&options, &monitor), GMOE_INVALID_ARGUMENT, "token");
  options.allow_remote = 2;
  FAILS(gmoe_monitor_start(&options, &monitor), GMOE_INVALID_ARGUMENT, "allow_remote: 2");
  options.allow_remote = 0;
  options.address = "127.0.0.1:0";
  options.interval_milliseconds = 1;
  FAILS(gmoe_monitor_start(&options, &monitor), GMOE_INVALID_ARGUMENT, "interval");
  options.interval_milliseconds = 50;
  FAILS(gmoe_monitor_start(&options, NULL), GMOE_INVALID_ARGUMENT, "out");
  OK(gmoe_monitor_start(&options, &monitor));

  OK(gmoe_monitor_url(monitor, NULL, 0, &needed));
  CHECK(needed > strlen("http://127.0.0.1:1/"));
  FAILS(gmoe_monitor_url(monitor, text, 4, NULL), GMOE_INVALID_ARGUMENT, "capacity");
  OK(gmoe_monitor_url(monitor, text, sizeof text, NULL));
  CHECK(sscanf(text, "http://127.0.0.1:%d/", &port) == 1);

  OK(gmoe_monitor_log(monitor, run, strlen(run)));
  FAILS(gmoe_monitor_log(monitor, "{", 1), GMOE_INVALID_ARGUMENT, "line");
  FAILS(gmoe_monitor_log(monitor, run, 0), GMOE_INVALID_ARGUMENT, "line");
  FAILS(gmoe_monitor_log(monitor, NULL, 1), GMOE_INVALID_ARGUMENT, "line");
  FAILS(gmoe_monitor_log(monitor, run, SIZE_MAX), GMOE_INVALID_ARGUMENT, "length");
  FAILS(gmoe_monitor_log(NULL, run, strlen(run)), GMOE_INVALID_HANDLE, "monitor");
  FAILS(gmoe_monitor_open(monitor, "/nowhere", &file), GMOE_INVALID_ARGUMENT, "/nowhere");
  FAILS(gmoe_monitor_attach(monitor, NULL), GMOE_INVALID_HANDLE, "recorder");
  file.follow = 7;
  FAILS(gmoe_monitor_open(monitor, "/nowhere", &file), GMOE_INVALID_ARGUMENT, "follow: 7");
  fetch(port, "/api/snapshot", text, sizeof text);
  CHECK(strstr(text, "HTTP/1.1 200") == text && strstr(text, "a run from C") != NULL);
  fetch(port, "/", text, sizeof text);
  CHECK(strstr(text, "<!doctype html>") != NULL);

  hanging = ask(port, "/api/stream");
  CHECK(read(hanging, text, 64) > 0);
  for (i = 0; i < 8; i++) {
    OK(gmoe_monitor_log(monitor, power, strlen(power)));
    if (i == 2) close(hanging);
    usleep(60000);
  }

  child = fork();
  if (child == 0) _exit(gmoe_monitor_log(monitor, run, strlen(run)) == GMOE_FORKED ? 0 : 1);
  CHECK(waitpid(child, &status, 0) == child && status == 0);

  /* A child that lives on holds the socket, and yet the port is free again. */
  child = fork();
  if (child == 0) {
    sleep(30);
    _exit(0);
  }
  OK(gmoe_monitor_stop(monitor));
  snprintf(text, sizeof text, "127.0.0.1:%d", port);
  options.address = text;
  OK(gmoe_monitor_start(&options, &other));
  kill(child, 9);
  CHECK(waitpid(child, &status, 0) == child);
  FAILS(gmoe_monitor_stop(monitor), GMOE_INVALID_HANDLE, "monitor");
  OK(gmoe_monitor_stop(NULL));
  OK(gmoe_monitor_stop(other));
  return 0;
}
