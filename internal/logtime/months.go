package logtime

import "time"

// maxMonth is the longest name in foreignMonths, in bytes.
const maxMonth = 8

// foreignMonths are the short names of months in languages other than English, as journalctl and daemons write them by the
// host's locale (LC_TIME, key abmon of glibc).
var foreignMonths = map[string]time.Month{
	"1月": 1, "1월": 1, "Oca": 1, "ene": 1, "gen": 1, "ian": 1, "jaan": 1, "jan": 1, "jan.": 1, "janv.": 1, "led": 1, "saus.": 1, "sty": 1, "tammi": 1, "Ιαν": 1, "січ": 1, "янв": 1, "яну": 1,
	"2月": 2, "2월": 2, "feb": 2, "feb.": 2, "febr": 2, "fev": 2, "févr.": 2, "helmi": 2, "lut": 2, "vas.": 2, "veebr": 2, "úno": 2, "Şub": 2, "Φεβ": 2, "лют": 2, "фев": 2,
	"3月": 3, "3월": 3, "Mär": 3, "bře": 3, "kov.": 3, "maalis": 3, "mar": 3, "mars": 3, "mrt": 3, "márc": 3, "märts": 3, "Μαρ": 3, "бер": 3, "мар": 3,
	"4月": 4, "4월": 4, "Nis": 4, "abr": 4, "apr": 4, "april": 4, "avril": 4, "bal.": 4, "dub": 4, "huhti": 4, "kwi": 4, "ápr": 4, "Απρ": 4, "апр": 4, "кві": 4,
	"5月": 5, "5월": 5, "Mai": 5, "geg.": 5, "kvě": 5, "mag": 5, "mai": 5, "maj": 5, "may": 5, "mei": 5, "máj": 5, "touko": 5, "Μαΐ": 5, "май": 5, "мая": 5, "тра": 5,
	"6月": 6, "6월": 6, "Haz": 6, "birž.": 6, "cze": 6, "giu": 6, "iun": 6, "juin": 6, "jun": 6, "juni": 6, "juuni": 6, "jún": 6, "jūn": 6, "kesä": 6, "čen": 6, "Ιουν": 6, "июн": 6, "чер": 6, "юни": 6,
	"7月": 7, "7월": 7, "Tem": 7, "heinä": 7, "iul": 7, "juil.": 7, "jul": 7, "juli": 7, "juuli": 7, "júl": 7, "jūl": 7, "liep.": 7, "lip": 7, "lug": 7, "čec": 7, "Ιουλ": 7, "июл": 7, "лип": 7, "юли": 7,
	"8月": 8, "8월": 8, "Ağu": 8, "ago": 8, "août": 8, "aug": 8, "aug.": 8, "avg": 8, "elo": 8, "rugp.": 8, "sie": 8, "srp": 8, "Αυγ": 8, "авг": 8, "сер": 8,
	"9月": 9, "9월": 9, "Eyl": 9, "rugs.": 9, "sep": 9, "sep.": 9, "sept": 9, "sept.": 9, "set": 9, "syys": 9, "szept": 9, "wrz": 9, "zář": 9, "Σεπ": 9, "вер": 9, "сен": 9, "сеп": 9,
	"10月": 10, "10월": 10, "Eki": 10, "Okt": 10, "loka": 10, "oct": 10, "oct.": 10, "okt": 10, "okt.": 10, "ott": 10, "out": 10, "paź": 10, "spal.": 10, "říj": 10, "Οκτ": 10, "жов": 10, "окт": 10,
	"11月": 11, "11월": 11, "Kas": 11, "lapkr.": 11, "lis": 11, "marras": 11, "nov": 11, "nov.": 11, "Νοε": 11, "лис": 11, "ное": 11, "ноя": 11,
	"12月": 12, "12월": 12, "Ara": 12, "Dez": 12, "dec": 12, "des.": 12, "dets": 12, "dez": 12, "dic": 12, "déc.": 12, "gru": 12, "gruod.": 12, "joulu": 12, "pro": 12, "Δεκ": 12, "гру": 12, "дек": 12,
}
