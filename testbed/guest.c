/* Sends and receives UDP datagrams in the guest of test_esp_linux.py.
 *
 * guest encap ADDRESS PORT          holds a socket whose ESP datagrams the kernel opens
 * guest receive ADDRESS PORT TAG    writes "TAG hex" for each datagram, until one says "end"
 * guest take ADDRESS PORT TAG N     the same, until there were N
 * guest send ADDRESS PORT ADDRESS PORT HEX...
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OPTION_UDP_ENCAP 100
#define LEVEL_UDP 17

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t read_address(union address *address, const char *host, const char *port)
{
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &address->v4.sin_addr) == 1) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(atoi(port));
        return sizeof address->v4;
    }
    if (inet_pton(AF_INET6, host, &address->v6.sin6_addr) == 1) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(atoi(port));
        return sizeof address->v6;
    }
    printf("FAILED address %s\n", host);
    exit(1);
}

static int bound(const char *host, const char *port)
{
    union address here;
    socklen_t len = read_address(&here, host, port);
    int fd = socket(here.any.sa_family, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, &here.any, len) != 0) {
        printf("FAILED bind %s %s\n", host, port);
        exit(1);
    }
    return fd;
}

static void receive(int fd, const char *tag, long count)
{
    unsigned char datagram[4096];
    for (long seen = 0; count == 0 || seen < count; seen++) {
        ssize_t len = recv(fd, datagram, sizeof datagram, 0);
        if (count == 0 && len == 3 && memcmp(datagram, "end", 3) == 0)
            return;
        printf("%s ", tag);
        for (ssize_t at = 0; at < len; at++)
            printf("%02x", datagram[at]);
        printf("\n");
    }
}

static void send_to(int fd, const union address *there, socklen_t there_len, const char *hex)
{
    unsigned char datagram[4096];
    size_t len = strlen(hex) / 2;
    for (size_t at = 0; at < len; at++)
        sscanf(hex + 2 * at, "%2hhx", datagram + at);
    if (sendto(fd, datagram, len, 0, &there->any, there_len) < 0)
        printf("FAILED send\n");
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count < 4)
        return 2;
    int fd = bound(words[2], words[3]);
    if (strcmp(words[1], "encap") == 0) {
        int espinudp = 2;
        if (setsockopt(fd, LEVEL_UDP, OPTION_UDP_ENCAP, &espinudp, sizeof espinudp) != 0)
            printf("FAILED encap\n");
        printf("READY encap\n");
        receive(fd, "PLAIN", 0);
    } else if (strcmp(words[1], "receive") == 0 && count == 5) {
        receive(fd, words[4], 0);
    } else if (strcmp(words[1], "take") == 0 && count == 6) {
        receive(fd, words[4], atol(words[5]));
    } else if (strcmp(words[1], "send") == 0 && count > 5) {
        union address there;
        socklen_t len = read_address(&there, words[4], words[5]);
        for (int word = 6; word < count; word++)
            send_to(fd, &there, len, words[word]);
    } else {
        return 2;
    }
    return 0;
}
